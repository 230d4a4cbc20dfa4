"""How many threads numeric libraries use, and how they wait; set before any of them is loaded.

OpenMP's threads spin while they wait for each other. Where other processes want the cores, too, the one that is waited
for is the one that does not run, and two threads take many times as long as one. Here they wait for a moment, which is
enough where the cores are free, and then sleep. NumPy's OpenBLAS has a pool beside it that spins whatever it is told:
beside busy processes it cost seven times the work, and one thread of it does for what NumPy multiplies here. A
container's share of the cores is what its group may use, not what the machine has.
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

WAITING = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "30000",
    "KMP_BLOCKTIME": "0",
    "OPENBLAS_NUM_THREADS": "1",
}
GROUPS = Path("/sys/fs/cgroup")


def settle(environ: MutableMapping[str, str], groups: Path = GROUPS, own: Path = Path("/proc/self/cgroup")) -> None:
    """Let threads wait asleep, and no more of them start than there are cores to have; what somebody set stays."""
    for name, value in WAITING.items():
        environ.setdefault(name, value)
    share = quota(groups, own)
    if share is not None and share < cores():
        environ.setdefault("OMP_NUM_THREADS", str(max(1, int(share))))


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(groups: Path, own: Path) -> float | None:
    """Cores' worth of time that the process's control group and those above it allow; None without a limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    paths: Mapping[str, str] = {line.split(":")[1]: line.split(":", 2)[2] for line in lines if line.count(":") >= 2}
    found = [_unified(folder) for folder in _upwards(groups, paths.get("", "/"))]
    cpu = next((path for names, path in paths.items() if "cpu" in names.split(",")), None)
    if cpu is not None:
        found += [_earlier(folder) for name in ("cpu,cpuacct", "cpu") for folder in _upwards(groups / name, cpu)]
    return min((share for share in found if share is not None), default=None)


def _upwards(top: Path, path: str) -> list[Path]:
    folder = top / path.strip("/")
    return [folder, *(parent for parent in folder.parents if parent == top or top in parent.parents)]


def _unified(folder: Path) -> float | None:
    """cpu.max of version 2: `quota period` in microseconds, or `max`."""
    words = _text(folder / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _earlier(folder: Path) -> float | None:
    """The two files of version 1; -1 is no limit."""
    found, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(found) / int(period) if found.isdigit() and period.isdigit() and int(period) else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
