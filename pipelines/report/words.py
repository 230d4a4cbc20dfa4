"""Every outcome in words that a reader of the report understands without the code."""

from maskmill.data_contracts import Reason

WORDS = {
    Reason.KEPT: "Kept",
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
    Reason.NO_CLASSES: "Nothing to score: no class",
    Reason.SCORE_FAILED: "Scoring failed",
    Reason.NEAR_DUPLICATE: "Almost the same as a sample that was kept",
    Reason.LEAKS_INTO_TEST: "Almost the same as a test image",
    Reason.HIGH_ENTROPY: "CLIP cannot tell what the image shows",
    Reason.LOW_PCS: "CLIP reads the image the same when its tiles are shuffled: no object structure",
    Reason.LABEL_SWAP: "CLIP prefers a class that the label does not name",
    Reason.NOT_SCORED: "No score to decide by",
    Reason.LOW_ASF: "The mask does not cover what CLIP finds",
    Reason.BELOW_QUOTA: "Others of its class or stratum score higher",
    Reason.LOW_CONFIDENCE: "The labeler is unsure almost everywhere",
}


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
