"""One process at a time in a run folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
from fsspec.implementations.local import LocalFileSystem


class RunLockedError(OSError):
    """Two processes may not work in one run folder."""


@contextmanager
def lock(run_dir: str) -> Iterator[None]:
    """Hold a local run folder; the system lets go of it when the process dies, however it dies. Object stores are
    not locked.
    """
    fs, target = fsspec.core.url_to_fs(run_dir)
    if not isinstance(fs, LocalFileSystem):
        yield
        return
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(target, ".lock"), "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{run_dir}: another process is working here; wait for it, or name another run_dir"
            raise RunLockedError(message) from error
        yield
