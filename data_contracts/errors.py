"""What can be wrong with a sample, in words that a person can act on and codes that a ledger can count."""

import errno
from dataclasses import dataclass
from enum import StrEnum

# What the operating system answers when a path itself can mean no file.
NO_SUCH_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})


LONGEST = 600  # characters of an expectation or a finding


class Reason(StrEnum):
    """Machine-readable outcome of one sample. `KEPT` is the only one that is not a rejection."""

    KEPT = "kept"
    # review (here, so that the colours of all others, which are counted from the end, stay what they are)
    REJECTED_IN_REVIEW = "rejected_in_review"
    # ingest
    MISSING_IMAGE = "missing_image"
    MISSING_MASK = "missing_mask"
    UNDECODABLE_IMAGE = "undecodable_image"
    UNDECODABLE_MASK = "undecodable_mask"
    IMAGE_TOO_LARGE = "image_too_large"
    SIZE_MISMATCH = "size_mismatch"
    WRONG_MASK_FORMAT = "wrong_mask_format"
    UNKNOWN_MASK_ID = "unknown_mask_id"
    UNKNOWN_CLASS_NAME = "unknown_class_name"
    EMPTY_FOREGROUND = "empty_foreground"
    DUPLICATE_ID = "duplicate_id"
    BAD_ANNOTATION = "bad_annotation"
    UNSAFE_PATH = "unsafe_path"
    NOT_READ = "not_read"  # lies in a folder of the source, and nothing there reads it
    # generation
    BAD_PROMPT = "bad_prompt"
    GENERATION_FAILED = "generation_failed"
    # scores
    NO_CLASSES = "no_classes"
    SCORE_FAILED = "score_failed"
    # selection
    NEAR_DUPLICATE = "near_duplicate"
    LEAKS_INTO_TEST = "leaks_into_test"
    HIGH_ENTROPY = "high_entropy"
    LOW_PCS = "low_pcs"
    LOW_IMAGE_SCORE = "low_image_score"
    LABEL_SWAP = "label_swap"
    NOT_SCORED = "not_scored"
    LOW_ASF = "low_asf"
    BELOW_QUOTA = "below_quota"
    # labels
    LOW_CONFIDENCE = "low_confidence"
    ALREADY_LABELLED = "already_labelled"


@dataclass(frozen=True)
class Problem:
    """One fault of one sample: what was expected, what was found, and what to do about it.

    `where` is the place inside the sample or its annotations (a file, an id, a line), where there is more than one.
    """

    reason: Reason
    expected: str
    found: str
    fix: str
    where: str = ""

    def __str__(self) -> str:
        place = f" at {_short(self.where)}" if self.where else ""
        return f"{self.reason}{place}: expected {_short(self.expected)}, found {_short(self.found)}. Fix: {self.fix}"


def _short(words: str) -> str:
    """Words that data may have written, cut where nobody would read on."""
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


class ContractError(ValueError):
    """A hand-over between two rooms breaks its contract. Carries the sample (or shard) and the problem."""

    def __init__(self, where: str, problem: Problem) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class DamagedError(ValueError):
    """A file of ours whose bytes are not those that were written."""

    def __init__(self, path: str, found: str, fix: str = "run the command that made it with --recheck") -> None:
        super().__init__(f"{path}: damaged: expected the bytes that were written, found {found}. Fix: {fix}")
        self.path = path


def is_transient(error: BaseException) -> bool:
    """True for a fault of the machine (memory, disk, network, too many open files) and not of the data: nothing that
    may be recorded against a sample. Decoders raise OSError for bad content too, but without an error number.
    """
    if isinstance(error, MemoryError | TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno is not None and error.errno not in NO_SUCH_FILE


def raise_transient(error: BaseException) -> None:
    """Raise a transient fault as it is; anything else is the caller's to judge."""
    if is_transient(error):
        raise error
