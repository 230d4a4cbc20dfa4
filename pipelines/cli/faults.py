"""Errors in words: what a user can mend, and what only we can."""

import traceback

from pydantic import ValidationError

from maskmill.pipelines.cli.exits import Exit
from maskmill.pipelines.core.settings import explain_errors
from maskmill.pipelines.ingest.patience import SourceFaultError
from maskmill.pipelines.run.limits import LimitError

HUBS = ("huggingface_hub", "httpx", "requests", "urllib", "open_clip", "diffusers", "transformers")
STORES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "google", "adlfs", "azure")
OFFLINE = (
    "no model could be fetched: give a local folder or file instead (e.g. --set score.pretrained=FILE or "
    "--set generate.generator.model=DIR), take `starter`, or connect to the network"
)


def words_for(error: Exception) -> tuple[str, int]:
    """What to tell the user of an error, and the exit status."""
    if isinstance(error, ValidationError):
        return f"these settings cannot be used:\n{explain_errors(error)}", Exit.FAULT
    if isinstance(error, LimitError):
        return str(error), Exit.EMPTY
    if _is_of_a_hub(error):
        return f"{_first_line(error)}\n  {OFFLINE}", Exit.FAULT
    if type(error).__module__.split(".")[0] in STORES:
        fix = "see that bucket, credentials (AWS_ACCESS_KEY_ID … or a profile) and endpoint are right"
        return f"the object store does not answer as it must: {error}\n  {fix}", Exit.FAULT
    if isinstance(error, KeyError):
        return str(error.args[0] if error.args else error), Exit.FAULT
    if isinstance(error, RecursionError):
        return "something here is nested too deeply to be read (YAML or JSON with thousands of levels?)", Exit.FAULT
    if _is_want_of_memory(error):
        return "out of memory; smaller batches, fewer workers or a smaller shard_size need less", Exit.FAULT
    if isinstance(error, OverflowError):
        return f"a number is too large: {error}", Exit.FAULT
    if isinstance(error, FileNotFoundError) and error.filename:  # as the system says it
        return f"{error.filename}: no such file or folder", Exit.FAULT
    if isinstance(error, ValueError | OSError | ImportError) or type(error).__module__.startswith("pyarrow"):
        return str(error) or type(error).__name__, Exit.FAULT
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {last[0].filename.rpartition('/')[2]}:{last[0].lineno}" if last else ""
    return f"{type(error).__name__}{place}: {error}\n  run again with -v for the traceback", Exit.BUG


def _is_want_of_memory(error: Exception) -> bool:
    """Python's own error, or torch's, which is a RuntimeError on every device."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _is_of_a_hub(error: BaseException) -> bool:
    """Whether an error, or one behind it, came from fetching a model."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, SourceFaultError) or str(getattr(cause, "filename", "")).startswith("s3://"):
            return False  # a source or a store that is down names itself
        if type(cause).__module__.split(".")[0] in HUBS or isinstance(cause, ConnectionError):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
