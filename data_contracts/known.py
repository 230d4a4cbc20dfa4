"""Footers that were read before, by file: good for as long as the file is the very same one (size, times, inode).

A run asks for the footer of a shard many times, and a run that has nothing to do asks for nothing else. Objects in a
store are always asked.
"""

import os
import time
from typing import Generic, TypeVar

T = TypeVar("T")
Stamp = tuple[int, int, int, int]  # size, mtime ns, ctime ns, inode
SETTLED_NS = 100_000_000  # a file that was changed less than this ago may change again within one tick of its clock


def file_stamp(path: str) -> Stamp | None:
    """Size, times and inode of a local file; None for URLs and where there is no file."""
    if "://" in path:
        return None
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def is_settled(stamp: Stamp) -> bool:
    """Whether a file was last changed long enough ago for a later change to show in its stamp."""
    return time.time_ns() - max(stamp[1], stamp[2]) > SETTLED_NS


class Known(Generic[T]):
    """What was read from files, by path, as long as their stamps hold."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Stamp, T]] = {}

    def get(self, path: str, stamp: Stamp | None) -> T | None:
        """What is known of the file as it is now."""
        found = None if stamp is None else self._found.get(os.path.abspath(path))
        return found[1] if found is not None and found[0] == stamp else None

    def put(self, path: str, stamp: Stamp | None, value: T) -> None:
        """Note what was read of a file; not of one that is being changed right now."""
        if stamp is not None and is_settled(stamp):
            self._found[os.path.abspath(path)] = stamp, value

    def inside(self, folder: str) -> dict[str, tuple[Stamp, T]]:
        """All that is known of files in a local folder, by path relative to it."""
        top = os.path.abspath(folder) + os.sep
        return {path[len(top) :]: kept for path, kept in sorted(self._found.items()) if path.startswith(top)}

    def learn(self, folder: str, kept: dict[str, tuple[Stamp, T]]) -> None:
        """Take over what `inside` gave another process."""
        top = os.path.abspath(folder)
        self._found.update((os.path.join(top, path), one) for path, one in kept.items())
