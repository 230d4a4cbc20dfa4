"""One process at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import fsspec
from fsspec.implementations.local import LocalFileSystem

from maskmill.data_contracts import sweep_tree, where_writable
from maskmill.data_contracts.storage import guarded
from maskmill.pipelines.core.lease import LockLostError, RunLockedError, fence, fenced, lease

__all__ = ["LockLostError", "RunLockedError", "fence", "fenced", "lock", "working"]


@contextmanager
def lock(run_dir: str, *, mark: bool = True) -> Iterator[None]:
    """Hold a folder: a local one by the folder itself, so that deleting the file `.lock` in it frees nothing; the
    system lets go when the process dies, however it dies. In an object store by a lease on the object `.lock`.

    With `mark` a local folder also gets the file, which older versions look at.

    A folder that may not be written is not made and needs no `.lock`: two may look at it at once.

    Each write into the folder first asks whether it is still held.

    Raises:
        RunLockedError: another process is working there.
        LockLostError (from a write inside): the folder was removed or replaced, the lease deleted or taken over.
    """
    fs, target = fsspec.core.url_to_fs(run_dir)
    if not isinstance(fs, LocalFileSystem):
        with lease(fs, f"{target.rstrip('/')}/.lock", run_dir):
            yield
        return
    with ExitStack() as held:
        with where_writable():
            os.makedirs(target, exist_ok=True)
            held.enter_context(_hold(folder := os.open(target, os.O_RDONLY), run_dir))
            held.enter_context(guarded(target, lambda: _check_same(folder, target)))
            if mark:
                held.enter_context(_hold(os.open(f"{target}/.lock", os.O_WRONLY | os.O_CREAT, 0o666), run_dir))
        yield


@contextmanager
def working(folder: str) -> Iterator[None]:
    """Hold a folder that is no run's, and clear away what killed writers left anywhere in it.

    Raises:
        RunLockedError: another process is working there.
    """
    with lock(folder, mark=False):
        sweep_tree(folder)
        yield


def _check_same(descriptor: int, target: str) -> None:
    """Whether the folder at `target` is still the one that is held.

    Raises:
        LockLostError: it is not; another process may hold the one that is there now.
    """
    try:
        there = os.stat(target)
    except FileNotFoundError:
        raise LockLostError(target, "the folder was removed") from None
    if not os.path.samestat(there, os.fstat(descriptor)):
        raise LockLostError(target, "the folder was replaced by another")


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
