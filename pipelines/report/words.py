"""Every outcome in words that a reader of the report understands without the code."""

from maskmill.data_contracts import Reason

WORDS = {
    Reason.KEPT: "Kept",
    Reason.REJECTED_IN_REVIEW: "A person looked at it and turned it away",
    Reason.MISSING_IMAGE: "No image file",
    Reason.MISSING_MASK: "No mask file",
    Reason.UNDECODABLE_IMAGE: "The image file is broken",
    Reason.UNDECODABLE_MASK: "The mask file is broken",
    Reason.IMAGE_TOO_LARGE: "More pixels than allowed",
    Reason.SIZE_MISMATCH: "Image and mask differ in size",
    Reason.WRONG_MASK_FORMAT: "The mask holds no class ids",
    Reason.UNKNOWN_MASK_ID: "The mask holds ids outside the label space",
    Reason.UNKNOWN_CLASS_NAME: "A class name outside the label space",
    Reason.EMPTY_FOREGROUND: "The mask shows no class at all",
    Reason.DUPLICATE_ID: "The same content a second time",
    Reason.BAD_ANNOTATION: "The annotation cannot be read",
    Reason.UNSAFE_PATH: "A path that leaves its archive",
    Reason.NOT_READ: "A file that the source does not read",
    Reason.BAD_PROMPT: "The prompt cannot be drawn",
    Reason.GENERATION_FAILED: "Drawing the image failed",
    Reason.NO_CLASSES: "Nothing to score: no class",
    Reason.SCORE_FAILED: "Scoring failed",
    Reason.NEAR_DUPLICATE: "Almost the same as a sample that was kept",
    Reason.LEAKS_INTO_TEST: "Almost the same as a test image",
    Reason.HIGH_ENTROPY: "CLIP cannot tell what the image shows",
    Reason.LOW_PCS: "CLIP reads the image the same when its tiles are shuffled: no object structure",
    Reason.LOW_IMAGE_SCORE: "CLIP sees little of what the label names, or no object structure",
    Reason.LABEL_SWAP: "CLIP prefers a class that the label does not name",
    Reason.NOT_SCORED: "No score to decide by",
    Reason.LOW_ASF: "The mask does not cover what CLIP finds",
    Reason.BELOW_QUOTA: "Others of its class or stratum score higher",
    Reason.LOW_CONFIDENCE: "The labeler is unsure almost everywhere",
    Reason.ALREADY_LABELLED: "A label was there before",
}

KEYS = {  # what to turn where too many samples have this reason
    Reason.KEPT: "",
    Reason.REJECTED_IN_REVIEW: "maskmill review: judge these samples again, or take verdicts back there",
    Reason.MISSING_IMAGE: "source.images, or source.pattern",
    Reason.MISSING_MASK: "source.masks and source.mask_suffix; `source.masks: null` for photos without masks",
    Reason.UNDECODABLE_IMAGE: "the files themselves: replace them",
    Reason.UNDECODABLE_MASK: "the files themselves: replace them",
    Reason.IMAGE_TOO_LARGE: "source.max_pixels",
    Reason.SIZE_MISMATCH: "the masks: resize them by nearest neighbour, or mend the pairing",
    Reason.WRONG_MASK_FORMAT: "source.colours, e.g. {'128,0,0': horse}",
    Reason.UNKNOWN_MASK_ID: "label_space, or source.remap, e.g. {33: ignore}",
    Reason.UNKNOWN_CLASS_NAME: "label_space: add the name as a class or a synonym",
    Reason.EMPTY_FOREGROUND: "source.remap: say which mask value is the object, e.g. {255: 1}",
    Reason.DUPLICATE_ID: "the source: the same files lie there twice",
    Reason.BAD_ANNOTATION: "the annotations: see the details in rejects/",
    Reason.UNSAFE_PATH: "the archive: its paths lead out of it",
    Reason.NOT_READ: "the source: these files are of no kind that it reads",
    Reason.BAD_PROMPT: "generate.prompts",
    Reason.GENERATION_FAILED: "generate.generator",
    Reason.NO_CLASSES: "label_space, or source.tags; images without objects: select.negatives=keep",
    Reason.SCORE_FAILED: "the samples' details in scores/ say why",
    Reason.NEAR_DUPLICATE: "select.duplicate_similarity, or --set select.near_duplicates=keep",
    Reason.LEAKS_INTO_TEST: "dedup.test_sets, or --set select.leaks=keep",
    Reason.HIGH_ENTROPY: "select.max_entropy",
    Reason.LOW_PCS: "select.pcs_tau, or --set select.pcs_tau=null",
    Reason.LOW_IMAGE_SCORE: "label_space (is it what the photos show?), or --set select.image_score_tau=null",
    Reason.LABEL_SWAP: "label_space (is it what the masks show?), or --set select.swap=keep",
    Reason.NOT_SCORED: "score.asf_gate",
    Reason.LOW_ASF: "the masks (do they fit their photos?), or --set select.min_score=null",
    Reason.BELOW_QUOTA: "select.rho, select.keep_fraction or select.quotas",
    Reason.LOW_CONFIDENCE: "the labeler's thresholds",
    Reason.ALREADY_LABELLED: "",
}


SCORES = {  # column: (title, what it says, in plain words)
    "image_score": (
        "Image score",
        "What images are judged by: how well CLIP, a model that knows pictures by their captions, sees in the image "
        "what its label names. Higher is better.",
    ),
    "pcs": (
        "PCS",
        "CLIP looks at the image, then at the same image cut in tiles and shuffled. PCS is how much its opinion "
        "changes: a real object falls apart when shuffled (high, good), mere texture does not (near 0).",
    ),
    "h_orig": (
        "Entropy",
        "How undecided CLIP is between the classes: 0 is sure of one class, higher wavers between many. Lower is "
        "better.",
    ),
    "asf": (
        "ASF",
        "CLIP draws a rough mask of its own. ASF is the overlap of the sample's mask with it: 0 nothing in common, "
        "1 the same. Low: the mask lies beside the object, or shows another one.",
    ),
    "ignore_fraction": (
        "Undecided",
        "Share of the image where CLIP's own mask says neither object nor background. Nothing is turned away for it.",
    ),
}

TERMS = {
    "review": "What people said of single samples in `maskmill review`. It counts for more than any score: keep and "
    "reject decide, and a relabelled sample stays under its new class.",
    "threshold": "A score on the wrong side of it turns the sample away. It is fixed in the config, or read off the "
    "scores themselves where they fall in two heaps (“mixture”).",
    "margin": "How far the score that decided lies from its threshold: below 0 turned away, near 0 a close call.",
    "rank": "Samples that pass every threshold are lined up, best first, among those with equally many classes (or "
    "of the same class): rank 3 of 10 is the third best.",
    "rho": "The share of each such line that stays: rho 0.5 keeps the better half, rho 1 everybody.",
    "near-duplicate": "Two images that a network sees as almost the same; the number is the cosine of its two views, "
    "1 for equal images. The better one stays.",
    "IoU": "Overlap of two masks: what they share, divided by what either covers. 100 % is the same mask; mIoU is its "
    "mean over the classes.",
    "bare model": "What the model could do if it embedded one picture after the other, no more. Scoring runs it "
    "more than once for a sample (whole, shuffled, and backwards for its mask), decodes files and refines masks.",
    "Dice": "Another measure of overlap, twice what is shared divided by both sizes; kinder to small objects.",
}


def key_of(reason: str) -> str:
    """What to turn where too many samples have this reason; for one that this version does not know: where to look."""
    try:
        return KEYS[Reason(reason)]
    except ValueError:
        return "the details in rejects/ and decisions.parquet"


def label(reason: str) -> str:
    """`low_asf` → `low ASF`."""
    text = reason.replace("_", " ")
    for word in ("asf", "pcs", "id"):
        text = " ".join(word.upper() if part == word else part for part in text.split(" "))
    return text


def explain(reason: str) -> str:
    """One sentence on a reason; empty for one that this version does not know."""
    try:
        return WORDS.get(Reason(reason), "")
    except ValueError:
        return ""
