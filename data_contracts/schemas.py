"""Arrow schemas of every hand-over. One row a sample; scores and decisions carry no pixels and join on `sample_id`."""

import pyarrow as pa

from maskmill.data_contracts.contract import FILE, Contract, contract, nullable, required

__all__ = [
    "CONTRACTS",
    "DECISION",
    "FILE",
    "LEARNT",
    "NEIGHBOUR",
    "PARTS",
    "PROMPT",
    "PSEUDO_LABEL",
    "SAMPLE",
    "SCORE",
    "VERDICT",
    "WEAK_LABEL",
    "Contract",
]

IDS = pa.list_(pa.int32())

PROVENANCE = pa.struct(
    [
        ("source", pa.string()),
        ("source_path", pa.string()),
        ("licence", pa.string()),
        ("model_id", pa.string()),
        ("model_revision", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("class_prompt", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int32()),
        ("guidance", pa.float32()),
        ("scheduler", pa.string()),
        ("extra", pa.string()),
    ]
)
BOX = pa.struct([("class_id", pa.int32()), *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1"))])
POINT = pa.struct([("class_id", pa.int32()), ("x", pa.float32()), ("y", pa.float32())])
CLASS_SCORE = pa.struct([("class_id", pa.int32()), ("iou", pa.float32())])
INSTANCE = pa.struct(
    [
        ("class_id", pa.int32()),
        ("box", pa.struct([(name, pa.float32()) for name in ("x0", "y0", "x1", "y1")])),
        ("rle", pa.string()),
        ("score", pa.float32()),
        ("crowd", pa.bool_()),
        ("source_id", pa.string()),
    ]
)
PARTS = {  # what the fields of the structs above hold, by the column that has them
    "provenance": {
        "source": "ingest source (folder, voc, coco, …) or family of the generator",
        "source_path": "path of the image inside its source",
        "licence": "of the sample, as its source names it",
        "model_id": "generator",
        "model_revision": "its revision, or a hash of its weights",
        "prompt": "what the generator was given",
        "negative_prompt": "what the picture was not to show",
        "class_prompt": "the class words of the prompt",
        "seed": "of the first noise",
        "steps": "denoising steps",
        "guidance": "scale of classifier-free guidance",
        "scheduler": "its class in diffusers",
        "extra": "JSON object: everything else needed to make the sample again",
    },
    "boxes": {"class_id": "id of the class", **dict.fromkeys(("x0", "y0", "x1", "y1"), "pixels, x0 <= x < x1")},
    "points": {"class_id": "id of the class", "x": "column, pixels", "y": "row, pixels"},
    "per_class": {"class_id": "id of the class", "iou": "overlap of its regions in both masks, 0 to 1"},
    "instances": {
        "class_id": "id of the class",
        "box": "x0, y0, x1, y1 in pixels, x0 <= x < x1",
        "rle": "COCO's compressed run lengths, height x width of the row; null = only the box is known",
        "score": "where the source or the labeler has one",
        "crowd": "a region of many objects: ignore in the mask",
        "source_id": "its id in the source's own files",
    },
}


_ID = required("sample_id", pa.string(), "hash of the sample's content: what all tables join on")

SAMPLE = contract(
    "sample",
    1,
    "One image with its mask and where it came from: `samples/` of a run.",
    [
        _ID,
        required("image", FILE, "the file's own bytes"),
        nullable("mask", FILE, "PNG of class ids, 255 = ignore; null = not labelled"),
        required("height", pa.int32(), "of the upright image, pixels"),
        required("width", pa.int32(), "of the upright image, pixels"),
        required("class_ids", IDS, "foreground ids in the mask, ascending"),
        nullable("prompt_class_ids", IDS, "what the image was asked to show; null where nothing says so"),
        nullable("group", pa.string(), "clip, volume or co-saliency group"),
        nullable("index", pa.int32(), "frame or slice inside the group"),
        nullable("spacing", pa.list_(pa.float32()), "mm per pixel (slice, row, column), volumes only"),
        required("provenance", PROVENANCE, "where the sample came from"),
        nullable("instances", pa.list_(INSTANCE), "objects told apart; null where nobody did"),
    ],
    files=("image", "mask"),
    later=("instances",),
)
WEAK_LABEL = contract(
    "weak_label",
    1,
    "What is known of a sample short of a mask: input of labelers and of trainers on weak labels.",
    [
        _ID,
        nullable("class_ids", IDS, "image tags"),
        nullable("boxes", pa.list_(BOX), "boxes, a class each"),
        nullable("scribble", FILE, "PNG of class ids, 255 = not annotated"),
        nullable("points", pa.list_(POINT), "points, a class each"),
        nullable("box_scores", pa.list_(pa.float32()), "a score a box, 0 to 1, where a detector found them"),
    ],
    files=("scribble",),
    later=("box_scores",),
)
SCORE = contract(
    "score",
    1,
    "What the scorer says of a sample: `scores/` of a run.",
    [
        _ID,
        required("label_ids", IDS, "the classes that competed: prompt labels where there are any, else mask labels"),
        nullable("h_orig", pa.float32(), "entropy of the class distribution, nats"),
        nullable("h_mix", pa.float32(), "the same after shuffling tiles (mean over permutations)"),
        nullable("pcs", pa.float32(), "|h_orig - h_mix|, nats"),
        nullable("image_score", pa.float32(), "the configured image score; equals pcs in faithful mode"),
        nullable("asf", pa.float32(), "the configured mask score, 0 to 1; faithful: pooled IoU with CLIP's mask"),
        nullable("per_class", pa.list_(CLASS_SCORE), "the mask score class by class"),
        nullable("n_classes", pa.int32(), "classes of the mask; 0 = an image without objects"),
        nullable("ignore_fraction", pa.float32(), "share of the pseudo-mask that CLIP left undecided"),
        nullable("swap_class_id", pa.int32(), "an absent class that CLIP prefers to a labelled one"),
        nullable("embedding", pa.list_(pa.float32()), "image embedding of length 1"),
        nullable("reason", pa.string(), "set when the sample could not be scored"),
        nullable("detail", pa.string(), "its words"),
    ],
)
DECISION = contract(
    "decision",
    1,
    "What became of a sample, and why: `decisions.parquet` and `rejects/` of a run.",
    [
        _ID,
        required("stage", pa.string(), "who decided"),
        required("kept", pa.bool_(), "whether the sample stays"),
        required("reason", pa.string(), "one of the reasons below"),
        nullable("detail", pa.string(), "the reason in words: expected, found, what to do"),
        nullable("score", pa.float32(), "the number that decided"),
        nullable("threshold", pa.float32(), "what it was held against"),
        nullable("duplicate_of", pa.string(), "sample_id of the kept sample that this one is like"),
        nullable("source_path", pa.string(), "path in the source"),
        nullable("shard", pa.string(), "file name of the Sample shard that holds the row"),
        nullable(
            "relabel_from",
            pa.int32(),
            "class of the mask that people said is another; null = all of its classes",
        ),
        nullable("relabel_to", pa.int32(), "what it is, as the person said; null = the mask as it was ingested"),
    ],
    later=("relabel_from", "relabel_to"),
)
VERDICT = contract(
    "verdict",
    1,
    "The last word of people on samples: `verdicts.parquet` of a run.",
    [
        _ID,
        required("verdict", pa.string(), "keep, reject or relabel; none = a note alone"),
        nullable("from_class_id", pa.int32(), "of relabel: the class that is another one; null = all of the mask's"),
        nullable("to_class_id", pa.int32(), "of relabel: what it is"),
        nullable("to_class", pa.string(), "its name then: what was meant, whatever becomes of the numbers"),
        nullable("why", pa.string(), "the person's reason"),
        nullable("note", pa.string(), "what else the person said"),
        required("who", pa.string(), "the person"),
        required("at", pa.timestamp("us", tz="UTC"), "when"),
        nullable("decided", pa.string(), "what selection had said of the sample when it was judged"),
    ],
)
PSEUDO_LABEL = contract(
    "pseudo_label",
    1,
    "A labeler's mask of a sample: what `maskmill label` writes.",
    [
        _ID,
        nullable("mask", FILE, "PNG of class ids, 255 = undecided; null = the labeler abstained"),
        nullable("confidence", FILE, "grey PNG, 255 = certain"),
        required("class_ids", IDS, "foreground ids in the mask, ascending"),
        nullable("instances", pa.list_(INSTANCE), "objects told apart; null where the labeler does not"),
        required("labeler", pa.string(), "its name"),
        required("labeler_version", pa.string(), "its version, with the weights that it used"),
        nullable("reason", pa.string(), "set when the labeler abstained from the whole sample"),
        nullable("detail", pa.string(), "its words"),
    ],
    files=("mask", "confidence"),
)
PROMPT = contract(
    "prompt",
    1,
    "What a generator is to draw: `prompts/` of a run that generates.",
    [
        _ID,
        required("prompt", pa.string(), "the caption with the class words appended"),
        nullable("negative_prompt", pa.string(), "what the picture must not show"),
        required("class_prompt", pa.string(), "the class words alone"),
        required("class_ids", IDS, "the classes that they stand for"),
        nullable("scene", pa.string(), "surroundings that the caption names"),
        required("seed", pa.int64(), "of the first noise"),
    ],
)
LEARNT = contract(
    "learnt",
    1,
    "What a scorer has learnt: `study/` of a run holds what each shard teaches, `learnt.parquet` all of it.",
    [
        required("part", pa.string(), "what the numbers belong to, e.g. fold 3"),
        required("name", pa.string(), "what they are"),
        required("shape", pa.list_(pa.int32()), "of the array; rows first"),
        required("values", pa.list_(pa.float64()), "its numbers, row after row"),
    ],
)
NEIGHBOUR = contract(
    "neighbour",
    1,
    "Two samples that look alike: `neighbours.parquet` of a run.",
    [
        _ID,
        required("other_id", pa.string(), "the other sample"),
        required("similarity", pa.float32(), "cosine of the two embeddings"),
        required("other_set", pa.string(), "self, or the name of the set checked for leakage"),
    ],
)
CONTRACTS = {c.name: c for c in (SAMPLE, WEAK_LABEL, SCORE, DECISION, PSEUDO_LABEL, PROMPT, NEIGHBOUR, VERDICT, LEARNT)}
