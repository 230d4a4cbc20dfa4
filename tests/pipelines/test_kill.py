"""Kill `maskmill run` whenever you like: running it again ends with the same bytes, and nothing finished is done
twice.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLS = 20
SHARDS = ("samples", "rejects", "scores")
LEFT_OUT = {".lock", "config.json", "timings.json"}  # empty; names its own folder; the clock is no result
CLOCK = re.compile(rb'<section id="speed">.*?</section>|<!-- maskmill-check \w+ -->', re.DOTALL)  # the report's times


def command(run_dir: Path) -> list[str]:
    sets = {"run_dir": run_dir, "source.count": 12, "shard_size": 3, "source.scene.size": 64}
    pairs = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "maskmill", "run", "planted-faults", *pairs]


def tree(run_dir: Path) -> dict[str, str]:
    """Hash of every file of a run by its path."""
    files = (p for p in run_dir.rglob("*") if p.is_file() and p.name not in LEFT_OUT)
    return {str(p.relative_to(run_dir)): hashlib.blake2b(CLOCK.sub(b"", p.read_bytes())).hexdigest() for p in files}


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
    landed = attempts = 0
    while landed < KILLS and attempts < 4 * KILLS:
        attempts += 1
        process = subprocess.Popen(
            command(run_dir),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            assert process.wait(timeout=rng.uniform(0.05, 0.7) * whole_seconds) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            landed += 1
        after = finished(run_dir)
        assert before.items() <= after.items(), "a finished shard was written again"
        before = after
        if process.returncode == 0 and landed < KILLS:  # it was faster: same bytes, and again from nothing
            assert tree(run_dir) == tree(tmp_path / "whole")
            shutil.rmtree(run_dir)
            before = {}
    assert landed == KILLS, f"only {landed} of {attempts} kills met a living process"

    subprocess.run(command(run_dir), check=True, capture_output=True, env=environment)
    assert before.items() <= finished(run_dir).items()
    assert tree(run_dir) == tree(tmp_path / "whole")
    assert not list(run_dir.rglob(".maskmill-tmp-*"))
