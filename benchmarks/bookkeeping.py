"""What a run's bookkeeping costs as it grows: photos of a few pixels, a scorer that costs nothing, shards of 64.

    python -m benchmarks.bookkeeping --seeds 0 --json F                  # 1,000 and 10,000 samples
    python -m benchmarks.bookkeeping --seeds 0 --budget full --json F    # and 100,000

Arms: `noop` (the whole command where there is nothing to do), `plan`, `ledger` and `report` (each built anew),
`flow_opening` (what a flow's tasks spend on finding their shards, all steps together; model calls and a server have no
part in it). Each is measured in a process of its own. Metrics: `cpu_s@1e3` and so on (user and system, imports and
children included), `tasks@…` (tasks a flow makes), `exponent` of the last decade (1: linear).
"""

from __future__ import annotations

import io
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import Record, parse_options

ARMS = ("noop", "plan", "ledger", "report", "flow_opening")
SIZES = {"small": (3, 4), "full": (3, 4, 5)}  # powers of ten
SHARD = 64
SIDE = 8  # pixels


def main() -> None:
    """Measure every arm at every size."""
    options = parse_options("bookkeeping", __doc__, needs_data=False)
    powers = SIZES[options.budget]
    record = Record.open(options)
    for seed in options.seeds:
        if all(record.has(arm, seed) for arm in ARMS):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found = {power: _measured(Path(scratch) / str(power), 10**power, seed) for power in powers}
        for arm in ARMS:
            metrics = {f"cpu_s@1e{power}": found[power][arm] for power in powers}
            metrics["exponent"] = math.log10(found[powers[-1]][arm] / found[powers[-2]][arm])
            if arm == "flow_opening":
                metrics |= {f"tasks@1e{power}": found[power]["tasks"] for power in powers}
            record.add(arm, seed, metrics)
    record.finish()


def _measured(folder: Path, samples: int, seed: int) -> dict[str, float]:
    make_pairs(folder / "source", samples, seed)
    _child(folder, "run")
    return {name: value for arm in ARMS for name, value in _child(folder, arm).items()}


def _child(folder: Path, arm: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bookkeeping", "--child", arm, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_pairs(root: Path, samples: int, seed: int) -> None:
    """`samples` pairs of noise and a mask of one of two classes, all different."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    masks = [_png(np.where(np.arange(SIDE)[:, None] < SIDE // 2, k, 0) * np.ones((1, SIDE))) for k in (1, 2)]
    for index in range(samples):
        (root / "images" / f"{index:07d}.png").write_bytes(_png(rng.integers(0, 256, (SIDE, SIDE, 3))))
        (root / "masks" / f"{index:07d}.png").write_bytes(masks[index % 2])


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _work(arm: str, folder: Path) -> dict[str, float]:
    """Do one arm in this process; gives its CPU seconds."""
    found = {"run": _run, "noop": _run, "plan": _plan, "ledger": _ledger, "report": _report, "flow_opening": _opening}
    extra = found[arm](folder)
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {arm: sum(one.ru_utime + one.ru_stime for one in spent), **extra}


def _config(folder: Path) -> Any:
    from maskmill.curation.registry import SCORERS
    from maskmill.pipelines.run.config import RunConfig
    from maskmill.pipelines.stages.score import SCORER_KINDS

    SCORERS["flat"] = "benchmarks.flat_scorer"
    SCORER_KINDS.add("flat", "benchmarks.flat_scorer:Config")
    told = {
        "name": "bookkeeping",
        "run_dir": str(folder / "run"),
        "source": {"kind": "folder", "root": str(folder / "source")},
        "label_space": ["first", "second"],
        "score": {"kind": "flat"},
        "shard_size": SHARD,
        "export": [],
    }
    return RunConfig.model_validate(told)


def _run(folder: Path) -> dict[str, float]:
    from maskmill.pipelines.run.run import run

    run(_config(folder))
    return {}


def _plan(folder: Path) -> dict[str, float]:
    from maskmill.pipelines.run.plan import plan

    assert not any(line.to_run for line in plan(_config(folder)))
    return {}


def _ledger(folder: Path) -> dict[str, float]:
    from maskmill.pipelines.core.ledger import build_ledger

    build_ledger(str(folder / "run"))
    return {}


def _report(folder: Path) -> dict[str, float]:
    from maskmill.pipelines.run.steps import open_step

    (folder / "run" / "report" / "index.html").unlink()
    open_step(_config(folder), "report").run(0)
    return {}


def _opening(folder: Path) -> dict[str, float]:
    """All that tasks of a flow spend beside their shards: each finds its step, and that its shards are there."""
    import flows
    from maskmill.pipelines.core.step import groups_of
    from maskmill.pipelines.run.run import passes, save_config

    config = _config(folder)
    path, tasks = save_config(config), 0
    for name in (name for steps in passes(config) for name in steps):
        total = flows.opened_step(path, name, "opening").count()
        for start, count in zip(*groups_of(total), strict=True):
            step = flows.opened_step(path, name, "opening")
            assert all(step.why(index) is None for index in range(start, start + count))
            tasks += 1
    return {"tasks": tasks}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_work(sys.argv[2], Path(sys.argv[3]))))
    else:
        main()
