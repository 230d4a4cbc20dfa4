"""Scoring beside other work: what it loses where busy loops hold the cores, against its fair share.

    python -m benchmarks.busy_machine --seeds 0 --json F

Arms: `passive`, threads wait as maskmill sets it (they sleep), and `active`, they spin, as OpenMP has it by default.
The starter scorer reads drawn scenes with as many threads as there are cores, alone and beside twice as many busy
loops as there are cores, by turns in one process. Metrics: `cpu_ratio`, CPU seconds of a sample beside the loops over
those alone (1: no work is lost to waiting; other processes on the machine do not count); `over_fair`, the time that a
sample takes beside them over what it takes alone at its fair share of the cores (threads of the scorer / all threads;
on a machine that does nothing else; 1.5 is the aim, below 1 its share was more than fair). Needs no --data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.common import Options, Record, parse_options
from maskmill._cores import WAITING

ARMS = {"passive": "PASSIVE", "active": "ACTIVE"}
LOOPS = 2  # busy processes a core
SAMPLES = {"small": 8, "full": 48}
TURNS = 2


def cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but run."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(samples: int, seed: int) -> dict[str, float]:
    """Both ratios, in this process."""
    import torch

    from benchmarks.throughput import SPACE
    from benchmarks.throughput import samples as drawn
    from maskmill.curation.sds import SdsConfig, make_engine
    from maskmill.curation.sds.score import score_rows

    torch.set_num_threads(cores())
    engine, table = make_engine(SdsConfig(), SPACE), drawn(samples, seed)

    def spent() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        score_rows(table, engine, seed)
        return time.perf_counter() - wall, time.process_time() - cpu

    spent()
    alone, beside = [], []
    for _ in range(TURNS):
        alone.append(spent())
        with busy(LOOPS * cores()):
            beside.append(spent())
    walls, cpus = ([min(one[i] for one in found) for found in (alone, beside)] for i in (0, 1))
    fair = (LOOPS * cores() + cores()) / cores()
    return {"cpu_ratio": cpus[1] / cpus[0], "over_fair": walls[1] / walls[0] / fair}


def run(options: Options) -> dict[str, object]:
    """Each arm in a process of its own: how threads wait is settled when libraries are loaded."""
    record = Record.open(options)
    for seed in options.seeds:
        for arm, policy in ARMS.items():
            if record.has(arm, seed):
                continue
            keep = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("OMP_", "GOMP_", "KMP_", "OPENBLAS_"))
            }
            spin = {"OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": "infinity", "OPENBLAS_NUM_THREADS": str(cores())}
            told = keep | (spin if policy == "ACTIVE" else WAITING)
            command = [
                sys.executable,
                "-m",
                "benchmarks.busy_machine",
                "--child",
                str(SAMPLES[options.budget]),
                str(seed),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=told)
            record.add(arm, seed, json.loads(done.stdout.splitlines()[-1]))
    return record.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        import maskmill  # noqa: F401 - settles how threads wait, before any of them starts

        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        run(parse_options("busy_machine", __doc__, needs_data=False))
