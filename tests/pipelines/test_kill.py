"""Kill maskmill anywhere: running it again gives the same bytes, does nothing finished twice, leaves nothing behind.

`python -m benchmarks.kill_anywhere --kills 100 --json FILE` does this for every stage, on a disk and on S3.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLS = 9


def test_kills_anywhere_end_with_the_same_bytes(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    words = ["--kills", str(KILLS), "--stages", "curate,label", "--stores", "local", "--json", str(found)]
    command = [sys.executable, "-m", "benchmarks.kill_anywhere", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    means = {name: metric["mean"] for name, metric in json.loads(found.read_text())["metrics"]["all"].items()}
    wanted = {"kills": KILLS, "identical": 1, "recomputed_shards": 0, "leftovers": 0}
    assert {name: means[name] for name in wanted} == wanted, done.stdout
