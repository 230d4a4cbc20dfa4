"""Faults of the machine while a source is read: met with patience, never recorded against a sample."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from maskmill.data_contracts import is_transient
from maskmill.data_contracts.secrets import redact

PAUSES = (0.2, 1.0, 3.0)  # seconds before a fault of the machine is met again; after the last one the run stops
Result = TypeVar("Result")
logger = logging.getLogger("maskmill.ingest")


class SourceFaultError(OSError, RuntimeError):
    """The source cannot be read just now, or changed while it was read. Nothing is recorded against its samples."""


def patiently(work: Callable[[], Result], where: str, what: str) -> Result:
    """The result of `work`, tried again after a pause where the machine was at fault (memory, disk, network).

    Raises:
        SourceFaultError: it still fails; names the file.
    """
    for pause in PAUSES:
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            logger.warning("%s: cannot %s: %r; trying again in %g s", where, what, error, pause)
            time.sleep(pause)
    try:
        return work()
    except Exception as error:
        if not is_transient(error):
            raise
        found = redact(f"{type(error).__name__}: {error}")
        fix = "mend disk, network or memory and run again; nothing was recorded against this sample"
        raise SourceFaultError(f"{where}: cannot {what}, tried {len(PAUSES) + 1} times: {found}. {fix}") from error
