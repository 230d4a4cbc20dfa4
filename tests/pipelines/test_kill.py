"""Kill `maskmill run` whenever you like: running it again ends with the same bytes, and nothing finished is done
twice.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLS = 20
SHARDS = ("samples", "rejects", "scores")
LEFT_OUT = {".lock", "config.json"}  # the lock is empty; the config names its own folder


def command(run_dir: Path) -> list[str]:
    sets = {"run_dir": run_dir, "source.count": 24, "shard_size": 4, "source.scene.size": 64}
    pairs = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "pipelines.cli", "run", "demo", *pairs]


def tree(run_dir: Path) -> dict[str, str]:
    """Hash of every file of a run by its path."""
    files = (p for p in run_dir.rglob("*") if p.is_file() and p.name not in LEFT_OUT)
    return {str(p.relative_to(run_dir)): hashlib.blake2b(p.read_bytes()).hexdigest() for p in files}


def finished(run_dir: Path) -> dict[str, int]:
    """Inode of every shard in place: a shard that is written again gets another one."""
    return {str(p): p.stat().st_ino for name in SHARDS for p in (run_dir / name).glob("shard-*.parquet")}


def test_twenty_kills_end_with_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, env=environment)
    whole_seconds = time.monotonic() - started

    rng = random.Random(0)
    run_dir = tmp_path / "killed"
    before: dict[str, int] = {}
    landed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(run_dir),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        time.sleep(rng.uniform(0.02, 1.0) * whole_seconds)
        landed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        after = finished(run_dir)
        assert before.items() <= after.items(), "a finished shard was written again"
        before = after
    assert landed >= KILLS // 2, f"only {landed} of {KILLS} kills met a living process"

    subprocess.run(command(run_dir), check=True, capture_output=True, env=environment)
    assert before.items() <= finished(run_dir).items()
    assert tree(run_dir) == tree(tmp_path / "whole")
    assert not list(run_dir.rglob(".maskmill-tmp-*"))
