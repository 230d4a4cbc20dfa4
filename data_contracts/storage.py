"""Files written whole or not at all, on a local disk or in an object store (fsspec URLs)."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

import fsspec
from fsspec.implementations.local import LocalFileSystem

TEMPORARY = ".maskmill-tmp-"
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
NEEDS = "s3:// needs s3fs: install maskmill with its extra `s3`"

for _protocol in ("s3", "s3a"):  # imported when the first such path is met
    fsspec.register_implementation(_protocol, "maskmill.data_contracts.s3.PatientS3", clobber=True, errtxt=NEEDS)

_guards: dict[str, Callable[[], None]] = {}  # folder (without protocol) -> what is asked before each write below it


@contextmanager
def guarded(folder: str, check: Callable[[], None]) -> Iterator[None]:
    """Inside, `check` is called before each write below `folder` (fsspec URL); what it raises stops the write."""
    place = fsspec.core.url_to_fs(folder)[1].rstrip("/")
    _guards[place] = check
    try:
        yield
    finally:
        _guards.pop(place, None)


def _ask(target: str) -> None:
    for place, check in list(_guards.items()):
        if target.startswith(f"{place}/"):
            check()


os.register_at_fork(after_in_child=_guards.clear)  # what guards a folder is the parent's


def write_bytes(path: str, data: bytes) -> None:
    """Put `data` at `path` (fsspec URL) whole or not at all; a local file is fsynced and renamed, as is its
    folder's entry.

    Raises:
        OSError: names `path`; what was there before is still there, and nothing half written stays.
    """
    fs, target = fsspec.core.url_to_fs(path)
    parent = str(PurePosixPath(target).parent)
    _ask(target)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(target, data)  # object stores show an object only once it is complete
        return
    temporary = os.path.join(parent, f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with naming(target):
        os.makedirs(parent, exist_ok=True)
        try:
            with open(temporary, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        folder = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_if_changed(path: str, data: bytes) -> bool:
    """Write unless these very bytes are there; False where nothing had to be written. A finished run can so be looked
    at where nobody may write.
    """
    with suppress(FileNotFoundError):
        if read_bytes(path) == data:
            return False
    write_bytes(path, data)
    return True


@contextmanager
def where_writable() -> Iterator[None]:
    """Leave off where nobody may write: what is there can still be looked at, and work that is due fails by itself."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise


@contextmanager
def naming(target: str) -> Iterator[None]:
    """Inside, errors of the disk say which file could not be written: a full disk alone names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, f"cannot write it: {error.strerror}", target) from error


def remove_file(path: str) -> None:
    """Remove the file at `path` (fsspec URL)."""
    fs, target = fsspec.core.url_to_fs(path)
    _ask(target)
    fs.rm_file(target)


def read_bytes(path: str) -> bytes:
    """The bytes at a local path or fsspec URL."""
    fs, target = fsspec.core.url_to_fs(path)
    data: bytes = fs.cat_file(target)
    return data


def sweep_temporaries(folder: str) -> int:
    """Remove what killed writers left in a local folder; returns how many files went. Call it while nobody writes
    there.
    """
    fs, target = fsspec.core.url_to_fs(folder)
    if not isinstance(fs, LocalFileSystem) or not os.path.isdir(target):
        return 0
    with os.scandir(target) as entries:
        stale = [entry.path for entry in entries if entry.name.startswith(TEMPORARY)]
    with where_writable():
        for path in stale:
            os.unlink(path)
    return len(stale)


def sweep_tree(folder: str) -> int:
    """`sweep_temporaries` for a local folder and all folders in it."""
    fs, target = fsspec.core.url_to_fs(folder)
    if not isinstance(fs, LocalFileSystem) or not os.path.isdir(target):
        return 0
    return sum(sweep_temporaries(top) for top, _, _ in os.walk(target))
