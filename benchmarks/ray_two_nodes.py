"""A flow over a Ray cluster of two nodes, on S3: is the dataset the same, what does a second node bring, and what is
lost where a worker or a node dies?

    python -m benchmarks.ray_two_nodes --seeds 0 --json F

Arms: `one_node`, `two_nodes`, `killed` (on two nodes; while scores are made one worker is killed, and a moment later
the other node with all its processes). Each is the flow `curate-synthetic` over drawn scenes and the starter CLIP, its
run folder on an S3 server of its own, under a Prefect server of its own; a node is a raylet with one core and processes
of its own on this machine. Metrics: `seconds` of the flow, `score_s` of its largest step, `speed` (score_s of one node
over this arm's), `identical` (1: every file is that of a run without any server, config.json but for its key `ray`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.common import Options, Record, parse_options
from benchmarks.kill_anywhere.folders import State, clear, differences
from maskmill.data_contracts import list_shards, read_bytes

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "nodes"
RUN = f"s3://{BUCKET}/run"
SIZES = {"small": 96, "full": 480}  # samples
LIMIT_S = 1800
STORE_MB = 80  # of each node: nothing but small numbers crosses it
BUSY = b"ray::run_shards"  # how Ray names a process that does a task
Changes = dict[str, Any]


def changes(samples: int, seed: int) -> Changes:
    """What the runs of a seed have in place of what configs/ray.yaml says."""
    return {
        "run_dir": RUN,
        "source.count": samples,
        "source.scene.seed": seed,
        "seed": seed,
        "export": [{"format": "hf"}],
    }


class Nodes:
    """A cluster on this machine: a head that does no task, and nodes of one core each."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        # The library notes the head's address here, whatever `temp_dir` says, and does not make the folder.
        Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
        room: dict[str, Any] = {"object_store_memory": STORE_MB << 20}
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, **room}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)  # its methods carry no types
        self._room = room
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def grow(self, count: int) -> None:
        """As many nodes."""
        while len(self.nodes) < count:
            self.nodes.append(self._cluster.add_node(num_cpus=1, **self._room))

    def kill_worker(self, node: Any) -> bool:
        """End a process of the node that does a task; False where none does."""
        with suppress(ProcessLookupError):
            for pid in _children(node.all_processes["raylet"][0].process.pid):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(BUSY):
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def kill_node(self, node: Any) -> None:
        """End a node with all its processes."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


@dataclass
class Bench:
    """Servers and cluster that all arms share."""

    nodes: Nodes
    env: dict[str, str]
    log: Path

    def start(self, told: Changes, address: str = "") -> subprocess.Popen[bytes]:
        """The run in a process of its own: the flow on the cluster, or without one and without a server."""
        command = [sys.executable, "-m", "benchmarks.ray_two_nodes", "--child", json.dumps(told), address]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env=self.env, cwd=ROOT, stdout=log, stderr=log)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for it.

        Raises:
            RuntimeError: it failed; says the end of what it said.
        """
        if process.wait(LIMIT_S):
            raise RuntimeError(f"the run ended with {process.returncode}:\n{self.log.read_text()[-6000:]}")

    def whole(self, told: Changes) -> State:
        """What a run without any server leaves."""
        clear([RUN])
        self.finish(self.start(told))
        return _state()

    def arm(self, told: Changes, wanted: State, count: int, kills: bool = False) -> dict[str, float]:
        """A flow on so many nodes; `wanted` is what it must leave."""
        clear([RUN])
        self.nodes.grow(count)
        begun = time.perf_counter()
        process = self.start(told, self.nodes.address)
        try:
            if kills:
                self._kill(process)
            self.finish(process)
        finally:
            process.kill()
        seconds = time.perf_counter() - begun
        times = {one["name"]: one["seconds"] for one in json.loads(read_bytes(f"{RUN}/timings.json"))}
        if wrong := differences(_state(), wanted):
            print("\n".join(wrong))
        return {"seconds": seconds, "score_s": times["score"], "identical": float(not wrong)}

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """A worker of the first node once a shard is scored, the second node once there is one more."""
        first, second = self.nodes.nodes
        self._until(process, lambda: len(list_shards(f"{RUN}/scores")) >= 1 and self.nodes.kill_worker(first))
        there = len(list_shards(f"{RUN}/scores"))
        self._until(process, lambda: len(list_shards(f"{RUN}/scores")) > there)
        self.nodes.kill_node(second)

    def _until(self, process: subprocess.Popen[bytes], holds: Any) -> None:
        while not holds():
            if process.poll() is not None:
                raise RuntimeError(f"the run ended before it could be disturbed:\n{self.log.read_text()[-6000:]}")
            time.sleep(0.02)


def _state() -> State:
    """All files of the run but its config, which says where it ran."""
    found = State.of([RUN])
    return State({name: stamp for name, stamp in found.files.items() if name != "0/config.json"}, found.shards)


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """S3 server, Prefect server and a cluster without nodes; things are kept in `folder`."""
    import s3fs
    from moto.server import ThreadedMotoServer

    from tests.prefect_server import running_server

    with ExitStack() as stack:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        stack.callback(server.stop)
        host, port = server.get_host_and_port()
        settings = {
            **{"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"},
            **{"AWS_ENDPOINT_URL": f"http://{host}:{port}", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
            **{"PYTHONPATH": str(ROOT), "PREFECT_LOGGING_LEVEL": "WARNING"},
            **{"RAY_raylet_start_wait_time_s": "600", "RAY_DISABLE_IMPORT_WARNING": "1"},  # busy machines
        }
        stack.enter_context(_environment(settings))  # nodes of the cluster inherit it, and so do the processes on them
        fsspec.filesystem("s3").clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        env = stack.enter_context(running_server(folder))
        short = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))  # sockets
        nodes = Nodes(short)
        stack.callback(nodes.close)
        yield Bench(nodes, env, folder / "runs.log")


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _child(told: Changes, address: str) -> None:
    from maskmill.pipelines.run.config import load_run_config
    from maskmill.pipelines.run.parameters import CurateParameters
    from maskmill.pipelines.run.run import run as run_here

    if not address:
        run_here(load_run_config("ray", {**told, "ray": None}))
        return
    from maskmill.flows import curate_synthetic

    curate_synthetic(CurateParameters(config="ray", overrides=told, ray_address=address))


def run(options: Options, arms: Sequence[str] = ("one_node", "two_nodes", "killed")) -> dict[str, Any]:
    """All arms of all seeds."""
    record = Record.open(options)
    with tempfile.TemporaryDirectory() as folder, bench(Path(folder)) as servers:
        for seed in options.seeds:
            told = changes(SIZES[options.budget], seed)
            due = [arm for arm in arms if not record.has(arm, seed)]
            wanted = servers.whole(told) if due else State({}, {})
            for arm in due:
                found = servers.arm(told, wanted, 1 if arm == "one_node" else 2, kills=arm == "killed")
                one = record.values.get("one_node", {}).get(str(seed), found)["score_s"]
                record.add(arm, seed, {**found, "speed": one / found["score_s"]})
    return record.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(json.loads(sys.argv[2]), sys.argv[3])
    else:
        run(parse_options("ray_two_nodes", __doc__, needs_data=False))
