"""Room for the vectors of a large set: memory, or a file without a name where memory is short."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARE = 0.5  # of the free memory that vectors may take; the search and everybody else need some, too
GROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


def room_for(rows: int, width: int, free: int | None = None) -> NDArray[np.float32]:
    """A float32 (rows, width) to write into. It lies in a temporary file, which is gone with the array, where it would
    take more than half of the memory that is `free` (bytes; None = as the system says).
    """
    free = free_memory() if free is None else free
    needed = rows * width * np.dtype(np.float32).itemsize
    if free is None or needed <= SHARE * free:
        return np.empty((rows, width), np.float32)
    with tempfile.TemporaryFile() as file:
        file.truncate(needed)
        return np.memmap(file, np.float32, "r+", shape=(rows, width))


def free_memory(group: Path = GROUP, memory: Path = MEMORY) -> int | None:
    """Bytes that this process may still take, by the machine and by its control group; None where neither says so."""
    found = [_machine(memory), _group(group)]
    return min((free for free in found if free is not None), default=None)


def _machine(memory: Path) -> int | None:
    lines = _text(memory).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _group(group: Path) -> int | None:
    most, now = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
    return int(most) - int(now) if most.isdigit() and now.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
