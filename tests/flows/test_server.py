"""The real thing: a Prefect server, a worker, `prefect deployment run`, and the dataset that comes out."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PREFECT = str(Path(sys.executable).parent / "prefect")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A local Prefect server with its own home; yields the environment that reaches it."""
    port = free_port()
    env = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        wait_until_healthy(f"{env['PREFECT_API_URL']}/health", process, tmp_path / "server.log")
        yield env
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        if process.poll() is not None:
            raise AssertionError(f"server ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"server did not come up:\n{log.read_text()[-3000:]}")


def prefect(env: dict[str, str], *arguments: str, timeout: int = 300) -> str:
    done = subprocess.run([PREFECT, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"prefect {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_nightly_deployment_curates_a_dataset(server: dict[str, str], tmp_path: Path) -> None:
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
        worker.terminate()
        worker.wait(timeout=60)
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
