"""Reads malformed inputs one after the other in a process of its own, under a limit on memory.

    python -m tests.malformed.harness FIRST OUT

writes a JSON line for each case from FIRST on. What it does not get to, because it was killed or hangs, is missing.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.malformed import annotations, coco, images, packed, settings, volumes
from tests.malformed.cases import Case, Said

CASES: list[Case] = [*images.CASES, *coco.CASES, *annotations.CASES, *packed.CASES, *volumes.CASES, *settings.CASES]
MOST = 1 << 30  # bytes of memory that a case may ask for
CPU_S, LONGEST_S = 60, 900  # of a case: twenty times what the slowest takes, on a machine that is busy too


def read(case: Case) -> Said:
    """What a case comes to; errors as words."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return case.read(Path(folder))
        except Exception as error:
            return Said(0, error=str(error), kind=" ".join(one.__name__ for one in type(error).__mro__))


def main(first: int, out: str) -> None:
    _warm_up()
    limit = _status("VmSize") + MOST
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(out, "a", encoding="utf-8") as lines:
        for case in CASES[first:]:
            signal.setitimer(signal.ITIMER_PROF, CPU_S)  # its signal ends the process, also within a library in C
            signal.alarm(LONGEST_S)
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
            before, started = _status("VmRSS"), time.monotonic()
            said = read(case)
            grown = _status("VmHWM") - before
            found = {**vars(said), "grown": grown, "seconds": round(time.monotonic() - started, 2)}
            lines.write(json.dumps({"name": case.name, **found}) + "\n")
            lines.flush()


def _warm_up() -> None:
    """Import what sources import when they are first used: libraries count against nobody's limit."""
    import av
    import cv2
    import h5py
    import nibabel
    import pycocotools.mask
    import rasterio

    os.environ.setdefault("GDAL_NUM_THREADS", "1")
    assert all((av, cv2, h5py, nibabel, pycocotools.mask, rasterio))
    for name in ("folder: 16 bits", "video: more frames than allowed", "h5: NaN", "hf_parquet: no rows"):
        read(next(case for case in CASES if case.name == name))


def _status(name: str) -> int:
    """Bytes that the kernel counts for this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
