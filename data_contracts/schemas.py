"""Arrow schemas of every hand-over. One row a sample; scores and decisions carry no pixels and join on `sample_id`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as extra

import pyarrow as pa

from maskmill.data_contracts.errors import ContractError, Problem, Reason

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
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


@dataclass(frozen=True)
class Contract:
    """A named, versioned table layout. `files` are the columns that hold encoded images, `required` those without
    nulls, `later` those that shards from before lack: read back, they are null. `about` says what each column holds.

    Arrow fields stay nullable: `datasets` does not see an image in a struct column that is not.
    """

    name: str
    version: int
    schema: pa.Schema
    files: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    about: Mapping[str, str] = extra(default_factory=dict, compare=False)
    words: str = extra(default="", compare=False)

    def table(self, rows: list[dict[str, object]]) -> pa.Table:
        """Rows to a table of exactly this schema.

        Raises:
            ContractError: a column that the contract does not know, or a value that does not fit.
        """
        known = set(self.schema.names)
        for row in rows:
            if unknown := set(row) - known:
                raise self._error(str(row.get("sample_id")), f"columns {sorted(known)}", f"also {sorted(unknown)}")
        try:
            table = pa.Table.from_pylist(rows, schema=self.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise self._error(self.name, str(self.schema), str(error)) from error
        self.check(table)
        return table

    def check(self, table: pa.Table, where: str | None = None) -> None:
        """Check column names, types and that required columns hold no null.

        Raises:
            ContractError: names the shard, the column, the type expected and the type found.
        """
        where = where or self.name
        for field in self.schema:
            if field.name not in table.column_names:
                raise self._error(where, f"column {field.name}", f"columns {table.column_names}")
            column = table.column(field.name)
            if column.type != field.type:
                raise self._error(where, f"{field.name}: {field.type}", str(column.type))
            if field.name in self.required and column.null_count:
                raise self._error(where, f"{field.name} without nulls", f"{column.null_count} nulls")

    def _error(self, where: str, expected: str, found: str) -> ContractError:
        fix = f"write rows through data_contracts.{self.name.upper()} (version {self.version})"
        return ContractError(where, Problem(Reason.BAD_ANNOTATION, expected, found, fix))


Column = tuple[pa.Field, str]  # and what it holds


def _contract(
    name: str,
    version: int,
    words: str,
    columns: list[Column],
    files: tuple[str, ...] = (),
    later: tuple[str, ...] = (),
) -> Contract:
    fields = [column for column, _ in columns]
    features = {column.name: _feature(column.type, column.name in files) for column in fields}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)}
    schema = pa.schema([column.with_nullable(True) for column in fields], metadata=metadata)
    required = tuple(column.name for column in fields if not column.nullable)
    return Contract(name, version, schema, files, required, later, {c.name: about for c, about in columns}, words)


def _feature(kind: pa.DataType, is_file: bool = False) -> dict[str, object]:
    """Hugging Face feature description of an Arrow type, so that `datasets` decodes our image columns as they are."""
    if is_file:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        if kind == FILE:
            return {"_type": "Image"}
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    names = {pa.float32(): "float32", pa.bool_(): "bool"}
    return {"dtype": names.get(kind, str(kind)), "_type": "Value"}


def _required(name: str, kind: pa.DataType, about: str) -> Column:
    return pa.field(name, kind, nullable=False), about


def _nullable(name: str, kind: pa.DataType, about: str) -> Column:
    return pa.field(name, kind), about


_ID = _required("sample_id", pa.string(), "hash of the sample's content: what all tables join on")

SAMPLE = _contract(
    "sample",
    1,
    "One image with its mask and where it came from: `samples/` of a run.",
    [
        _ID,
        _required("image", FILE, "the file's own bytes"),
        _nullable("mask", FILE, "PNG of class ids, 255 = ignore; null = not labelled"),
        _required("height", pa.int32(), "of the upright image, pixels"),
        _required("width", pa.int32(), "of the upright image, pixels"),
        _required("class_ids", IDS, "foreground ids in the mask, ascending"),
        _nullable("prompt_class_ids", IDS, "what the image was asked to show; null where nothing says so"),
        _nullable("group", pa.string(), "clip, volume or co-saliency group"),
        _nullable("index", pa.int32(), "frame or slice inside the group"),
        _nullable("spacing", pa.list_(pa.float32()), "mm per pixel (slice, row, column), volumes only"),
        _required("provenance", PROVENANCE, "where the sample came from"),
        _nullable("instances", pa.list_(INSTANCE), "objects told apart; null where nobody did"),
    ],
    files=("image", "mask"),
    later=("instances",),
)
WEAK_LABEL = _contract(
    "weak_label",
    1,
    "What is known of a sample short of a mask: input of labelers and of trainers on weak labels.",
    [
        _ID,
        _nullable("class_ids", IDS, "image tags"),
        _nullable("boxes", pa.list_(BOX), "boxes, a class each"),
        _nullable("scribble", FILE, "PNG of class ids, 255 = not annotated"),
        _nullable("points", pa.list_(POINT), "points, a class each"),
        _nullable("box_scores", pa.list_(pa.float32()), "a score a box, 0 to 1, where a detector found them"),
    ],
    files=("scribble",),
    later=("box_scores",),
)
SCORE = _contract(
    "score",
    1,
    "What the scorer says of a sample: `scores/` of a run.",
    [
        _ID,
        _required("label_ids", IDS, "the classes that competed: prompt labels where there are any, else mask labels"),
        _nullable("h_orig", pa.float32(), "entropy of the class distribution, nats"),
        _nullable("h_mix", pa.float32(), "the same after shuffling tiles (mean over permutations)"),
        _nullable("pcs", pa.float32(), "|h_orig - h_mix|, nats"),
        _nullable("image_score", pa.float32(), "the configured image score; equals pcs in faithful mode"),
        _nullable("asf", pa.float32(), "the configured mask score, 0 to 1; faithful: pooled IoU with CLIP's mask"),
        _nullable("per_class", pa.list_(CLASS_SCORE), "the mask score class by class"),
        _nullable("n_classes", pa.int32(), "classes of the mask; 0 = an image without objects"),
        _nullable("ignore_fraction", pa.float32(), "share of the pseudo-mask that CLIP left undecided"),
        _nullable("swap_class_id", pa.int32(), "an absent class that CLIP prefers to a labelled one"),
        _nullable("embedding", pa.list_(pa.float32()), "image embedding of length 1"),
        _nullable("reason", pa.string(), "set when the sample could not be scored"),
        _nullable("detail", pa.string(), "its words"),
    ],
)
DECISION = _contract(
    "decision",
    1,
    "What became of a sample, and why: `decisions.parquet` and `rejects/` of a run.",
    [
        _ID,
        _required("stage", pa.string(), "who decided"),
        _required("kept", pa.bool_(), "whether the sample stays"),
        _required("reason", pa.string(), "one of the reasons below"),
        _nullable("detail", pa.string(), "the reason in words: expected, found, what to do"),
        _nullable("score", pa.float32(), "the number that decided"),
        _nullable("threshold", pa.float32(), "what it was held against"),
        _nullable("duplicate_of", pa.string(), "sample_id of the kept sample that this one is like"),
        _nullable("source_path", pa.string(), "path in the source"),
        _nullable("shard", pa.string(), "file name of the Sample shard that holds the row"),
        _nullable(
            "relabel_from",
            pa.int32(),
            "class of the mask that people said is another; null = all of its classes",
        ),
        _nullable("relabel_to", pa.int32(), "what it is, as the person said; null = the mask as it was ingested"),
    ],
    later=("relabel_from", "relabel_to"),
)
VERDICT = _contract(
    "verdict",
    1,
    "The last word of people on samples: `verdicts.parquet` of a run.",
    [
        _ID,
        _required("verdict", pa.string(), "keep, reject or relabel; none = a note alone"),
        _nullable("from_class_id", pa.int32(), "of relabel: the class that is another one; null = all of the mask's"),
        _nullable("to_class_id", pa.int32(), "of relabel: what it is"),
        _nullable("to_class", pa.string(), "its name then: what was meant, whatever becomes of the numbers"),
        _nullable("why", pa.string(), "the person's reason"),
        _nullable("note", pa.string(), "what else the person said"),
        _required("who", pa.string(), "the person"),
        _required("at", pa.timestamp("us", tz="UTC"), "when"),
        _nullable("decided", pa.string(), "what selection had said of the sample when it was judged"),
    ],
)
PSEUDO_LABEL = _contract(
    "pseudo_label",
    1,
    "A labeler's mask of a sample: what `maskmill label` writes.",
    [
        _ID,
        _nullable("mask", FILE, "PNG of class ids, 255 = undecided; null = the labeler abstained"),
        _nullable("confidence", FILE, "grey PNG, 255 = certain"),
        _required("class_ids", IDS, "foreground ids in the mask, ascending"),
        _nullable("instances", pa.list_(INSTANCE), "objects told apart; null where the labeler does not"),
        _required("labeler", pa.string(), "its name"),
        _required("labeler_version", pa.string(), "its version, with the weights that it used"),
        _nullable("reason", pa.string(), "set when the labeler abstained from the whole sample"),
        _nullable("detail", pa.string(), "its words"),
    ],
    files=("mask", "confidence"),
)
PROMPT = _contract(
    "prompt",
    1,
    "What a generator is to draw: `prompts/` of a run that generates.",
    [
        _ID,
        _required("prompt", pa.string(), "the caption with the class words appended"),
        _nullable("negative_prompt", pa.string(), "what the picture must not show"),
        _required("class_prompt", pa.string(), "the class words alone"),
        _required("class_ids", IDS, "the classes that they stand for"),
        _nullable("scene", pa.string(), "surroundings that the caption names"),
        _required("seed", pa.int64(), "of the first noise"),
    ],
)
LEARNT = _contract(
    "learnt",
    1,
    "What a scorer has learnt: `study/` of a run holds what each shard teaches, `learnt.parquet` all of it.",
    [
        _required("part", pa.string(), "what the numbers belong to, e.g. fold 3"),
        _required("name", pa.string(), "what they are"),
        _required("shape", pa.list_(pa.int32()), "of the array; rows first"),
        _required("values", pa.list_(pa.float64()), "its numbers, row after row"),
    ],
)
NEIGHBOUR = _contract(
    "neighbour",
    1,
    "Two samples that look alike: `neighbours.parquet` of a run.",
    [
        _ID,
        _required("other_id", pa.string(), "the other sample"),
        _required("similarity", pa.float32(), "cosine of the two embeddings"),
        _required("other_set", pa.string(), "self, or the name of the set checked for leakage"),
    ],
)
CONTRACTS = {c.name: c for c in (SAMPLE, WEAK_LABEL, SCORE, DECISION, PSEUDO_LABEL, PROMPT, NEIGHBOUR, VERDICT, LEARNT)}
