"""One process at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import fsspec
from fsspec.implementations.local import LocalFileSystem

from maskmill.data_contracts import where_writable
from maskmill.pipelines.core.lease import RunLockedError, lease

__all__ = ["RunLockedError", "lock"]


@contextmanager
def lock(run_dir: str, *, mark: bool = True) -> Iterator[None]:
    """Hold a folder: a local one by the folder itself, so that deleting the file `.lock` in it frees nothing; the
    system lets go when the process dies, however it dies. In an object store by a lease on the object `.lock`.

    With `mark` a local folder also gets the file, which older versions look at.

    A folder that may not be written is not made and needs no `.lock`: two may look at it at once.

    Raises:
        RunLockedError: another process is working there.
    """
    fs, target = fsspec.core.url_to_fs(run_dir)
    if not isinstance(fs, LocalFileSystem):
        with lease(fs, f"{target.rstrip('/')}/.lock", run_dir):
            yield
        return
    with ExitStack() as held:
        with where_writable():
            os.makedirs(target, exist_ok=True)
            held.enter_context(_hold(os.open(target, os.O_RDONLY), run_dir))
            if mark:
                held.enter_context(_hold(os.open(f"{target}/.lock", os.O_WRONLY | os.O_CREAT, 0o666), run_dir))
        yield


_open: set[int] = set()


@contextmanager
def _hold(descriptor: int, run_dir: str) -> Iterator[None]:
    _open.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunLockedError(run_dir) from error
        yield
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        _open.discard(descriptor)
        os.close(descriptor)


def _let_go() -> None:
    """A forked child must not keep its parent's locks alive."""
    while _open:
        os.close(_open.pop())


os.register_at_fork(after_in_child=_let_go)
