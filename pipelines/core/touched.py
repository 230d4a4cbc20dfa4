"""Files that were changed after a run was closed: those are looked at byte by byte before they count as done."""

import os

import fsspec
from fsspec.implementations.local import LocalFileSystem


def is_touched(path: str, closing: str) -> bool:
    """Whether a local file was changed as late as `closing`, the file that is written last, or later; also where that
    one is not there. A change that keeps the file's time shows in its inode's. Objects in a store have checksums of the
    store's own: never.
    """
    fs, target = fsspec.core.url_to_fs(path)
    if not isinstance(fs, LocalFileSystem):
        return False
    return max(_times(target)) >= _times(fsspec.core.url_to_fs(closing)[1])[0]


def close(paths: list[str], closing: str) -> None:
    """Make `closing` newer than `paths`, which were verified, so that they need not be looked at again. Does nothing
    where it may not be written.
    """
    if not any(is_touched(path, closing) for path in paths):
        return
    try:
        os.utime(fsspec.core.url_to_fs(closing)[1])
    except OSError:
        return


def _times(path: str) -> tuple[int, int]:
    """When a file's content and its inode were changed last, in nanoseconds."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_ctime_ns
