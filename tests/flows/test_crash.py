"""A worker that is really killed, under a real Prefect server: the run is marked as crashed, the next does not wait."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskmill.pipelines.cli.crashed import LEAST_S
from maskmill.pipelines.cli.server import Server
from tests.prefect_server import Environment, running_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
SOON = {  # a server that looks often, and waits less for events that are late
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "PT5S",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}
LIMIT_S = 240
LONG = 1_000_000  # drawings of one shard: more than anybody waits for


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Environment]:
    source = {"count": LONG, "scene": {"size": 64}}
    config = {"extends": "planted-faults", "name": "long", "run_dir": "runs/long", "shard_size": LONG}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump({**config, "source": source, "export": []}))
    with running_server(tmp_path, SOON) as found:
        yield {**found, "PYTHONPATH": str(ROOT)}


def until(holds: Callable[[], Any], what: str) -> Any:
    """The first true value of a question that is asked again and again."""
    ends = time.monotonic() + LIMIT_S
    while not (found := holds()):
        assert time.monotonic() < ends, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.5)
    return found


@contextmanager
def worker(env: Environment, home: Path, number: int) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "maskmill", "--name", f"w{number}"]
    with (home / f"worker-{number}.log").open("w") as log:
        process = subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=300)


class Runs:
    """What the server knows of flow runs."""

    def __init__(self, env: Environment) -> None:
        self.server = Server(env["PREFECT_API_URL"])

    def deployment(self, flow: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.ask("GET", "deployments", "name", flow, name)
        return found

    def start(self, deployment: str, **parameters: Any) -> str:
        asked = {"parameters": {"parameters": parameters}}
        return str(self.server.ask("POST", "deployments", deployment, "create_flow_run", data=asked)["id"])

    def state(self, run: str) -> str:
        return str(self.server.ask("GET", "flow_runs", run)["state_type"])

    def kill(self, run: str) -> None:
        """End the process of a run, where it has one that lives."""
        place = str(self.server.ask("GET", "flow_runs", run)["infrastructure_pid"] or "")
        if (number := place.rpartition(":")[2]).isdigit():
            with suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)

    def below(self, run: str) -> list[str]:
        wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
        return [one["state_type"] for one in self.server.ask("POST", "flow_runs", "filter", data=wanted)]


def check_forms(runs: Runs) -> str:
    """The parameters are typed fields, as the page shows them; returns the deployment's id."""
    found = runs.deployment("curate-synthetic", "long")
    schema = found["parameter_openapi_schema"]
    fields = schema["definitions"]["CurateParameters"]["properties"]
    types = {name: {one.get("type") for one in field.get("anyOf", [field])} for name, field in fields.items()}
    assert types["config"] == {"string"}
    assert types["rho"] == types["min_score"] == {"number", "null"}
    assert types["workers"] == {"integer", "null"}
    assert types["classes"] == {"array"}
    assert fields["near_duplicates"]["anyOf"][0]["enum"] == ["best", "cluster", "keep"]
    assert all(field["description"] for field in fields.values())
    assert found["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
    export = runs.deployment("export-dataset", "long")
    formats = export["parameter_openapi_schema"]["definitions"]["ExportParameters"]["properties"]["formats"]
    assert "webdataset" in formats["items"]["enum"]
    assert export["parameters"] == {"parameters": {"run_dir": "runs/long"}}
    return str(found["id"])


def test_a_run_whose_worker_is_killed_is_crashed_and_the_next_does_not_wait(env: Environment, tmp_path: Path) -> None:
    deploy = [sys.executable, "-m", "maskmill", "deploy", "long.yaml", "--crash-after", str(LEAST_S)]
    done = subprocess.run(deploy, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = Runs(env)
    deployment = check_forms(runs)
    first, second = "", ""
    try:
        first = runs.start(deployment, config="long.yaml")
        with worker(env, tmp_path, 1) as killed:
            until(lambda: "RUNNING" in runs.below(first), "the first run is at its shard")
            seen_alive = time.monotonic()
            second = runs.start(deployment, config="long.yaml", run_dir="runs/second")
            with worker(env, tmp_path, 2):
                until(lambda: time.monotonic() > seen_alive + LEAST_S + 8, "longer than a silent run may live")
                assert (runs.state(first), runs.below(first)) == ("RUNNING", ["RUNNING"]), "a long shard is no death"
                assert runs.state(second) in ("SCHEDULED", "PENDING"), "it waits for the first"
                killed.send_signal(signal.SIGKILL)
                runs.kill(first)
                until(lambda: runs.state(first) == "CRASHED", "the first run is marked as crashed")
                until(lambda: set(runs.below(first)) == {"CRASHED"}, "and its step, too")
                until(lambda: runs.state(second) == "RUNNING", "the second run goes on")
    finally:
        for run in filter(None, (first, second)):
            runs.kill(run)
