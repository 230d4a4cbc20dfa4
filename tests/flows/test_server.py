"""The real thing: a Prefect server, a worker, `prefect deployment run`, and the dataset that comes out."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prefect_server import Environment, end, running_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
PREFECT = str(Path(sys.executable).parent / "prefect")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Environment]:
    """A local Prefect server with its own home; yields the environment that reaches it."""
    with running_server(tmp_path) as env:
        yield env


def prefect(env: Environment, *arguments: str, timeout: int = 300) -> str:
    done = subprocess.run([PREFECT, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"prefect {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_nightly_deployment_curates_a_dataset(server: Environment, tmp_path: Path) -> None:
    prefect(server, "work-pool", "create", "maskmill", "--type", "process")
    prefect(server, "gcl", "create", "maskmill-gpu", "--limit", "1")
    prefect(server, "--no-prompt", "deploy", "--all")
    run_dir = tmp_path / "run"
    overrides = {"run_dir": str(run_dir), "source.count": 12, "shard_size": 6, "source.scene.size": 96}
    parameters = json.dumps({"config": "planted-faults", "overrides": overrides})
    log = (tmp_path / "worker.log").open("w")
    worker = subprocess.Popen(
        [PREFECT, "worker", "start", "--pool", "maskmill", "--limit", "1"],
        env=server,
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        run = ("deployment", "run", "curate-synthetic/nightly", "--watch", "--param", f"parameters={parameters}")
        prefect(server, *run)
    finally:
        end(worker)
    said = (tmp_path / "worker.log").read_text()
    ledger = json.loads((run_dir / "ledger.json").read_text())
    assert sum(shard["rows_in"] for shard in ledger["shards"]) == 12, said[-3000:]
    assert (run_dir / "report" / "index.html").stat().st_size > 10_000
    kept = sum(shard["kept"] for shard in ledger["shards"])
    import datasets

    exported = datasets.load_dataset("parquet", data_files=str(run_dir / "export" / "hf" / "**" / "*.parquet"))
    assert sum(split.num_rows for split in exported.values()) == kept > 0
    artifacts = prefect(server, "artifact", "ls")
    assert "ledger" in artifacts
    assert "report" in artifacts
