"""What runs on several machines rest on, without a cluster: a store's listings, its lock in other processes' writes, a
config that lies there, what a task asks Ray for.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import fsspec
import pytest

import flows
from maskmill.data_contracts import list_shards, write_bytes
from maskmill.data_contracts.s3 import PatientS3
from maskmill.pipelines.core.lock import LockLostError, fence, fenced, lock
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.cluster import RayConfig, demands, joined
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.manifest import NOT_TOLD
from maskmill.pipelines.run.parameters import CurateParameters
from maskmill.pipelines.run.run import save_config


def test_shards_of_another_machine_are_seen(s3_bucket: str) -> None:
    folder = f"s3://{s3_bucket}/samples"
    write_bytes(f"{folder}/shard-00000.parquet", b"1")
    assert len(list_shards(folder)) == 1
    other = PatientS3(skip_instance_cache=True, default_cache_type="none")
    other.pipe_file(f"{s3_bucket}/samples/shard-00001.parquet", b"22")
    assert len(list_shards(folder)) == 2, "no listing of before"
    fs, path = fsspec.core.url_to_fs(f"{folder}/shard-00001.parquet")
    other.pipe_file(path, b"333")
    assert fs.info(path)["size"] == 3


def test_writes_for_a_lock_that_is_lost_are_refused(s3_bucket: str) -> None:
    folder = f"s3://{s3_bucket}/run"
    assert fence(folder) is None
    with lock(folder):
        held = fence(folder)
        assert held
        assert fence(f"{folder}-2") is None
    with lock(folder), fenced(folder, fence(folder)):
        write_bytes(f"{folder}/one", b"")
    for again in (lambda: lock(folder), lambda: fenced(folder, None)):
        with again(), fenced(folder, held), pytest.raises(LockLostError, match=r"lock|took it over"):
            write_bytes(f"{folder}/two", b"")
    with fenced(folder, None):
        write_bytes(f"{folder}/three", b"")


def test_a_local_folder_is_held_by_its_driver(tmp_path: Path) -> None:
    with lock(str(tmp_path)):
        assert fence(str(tmp_path)) is None


def test_a_task_finds_the_config_of_a_run_in_a_store(s3_bucket: str) -> None:
    path = save_config(load_run_config("ray", {"run_dir": f"s3://{s3_bucket}/run"}))
    config = flows._config(path)
    assert config.ray == RayConfig()
    assert config.run_dir == f"s3://{s3_bucket}/run"
    with pytest.raises(ConfigError, match="expected the config of a run"):
        load_run_config(f"s3://{s3_bucket}/other/config.json")


def test_ray_changes_nothing_in_the_data_and_is_named_by_config_or_parameter() -> None:
    assert "ray" in NOT_TOLD
    plain = load_run_config("planted-faults")
    assert plain.ray is None
    assert "ray" not in plain.model_dump()
    asked = CurateParameters(config="planted-faults", ray_address="head:6379")
    assert load_run_config(asked.config, asked.changes).ray == RayConfig(address="head:6379")


def test_a_gpu_has_one_task_at_a_time_and_keeps_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", ray)
    asked = demands(RayConfig(retries=5), model=True)
    assert asked == {"num_cpus": 1, "num_gpus": 1, "max_calls": 0, "max_retries": 5}
    assert demands(RayConfig(), model=False)["num_gpus"] == 0
    ray.cluster_resources = lambda: {"CPU": 8.0}
    assert demands(RayConfig(), model=True)["num_gpus"] == 0
    assert demands(None, model=True) == {}


def test_what_is_missing_for_ray_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="extra `ray`"), joined(RayConfig(), str(tmp_path)):
        pass
    with joined(None, str(tmp_path)):
        pass

    def init(address: str, **_: object) -> None:
        raise ConnectionError("nobody")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ConfigError, match=r"ray.address auto: no cluster answers there"), joined(RayConfig(), "x"):
        pass


def test_a_disk_of_one_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [{"NodeManagerAddress": name, "Alive": True} for name in ("a", "b")]
    left: list[str] = []
    ray = SimpleNamespace(
        is_initialized=lambda: False, init=lambda *_, **__: None, nodes=lambda: nodes, shutdown=lambda: left.append("")
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with joined(RayConfig(), str(tmp_path)):
        assert "2 machines" in caplog.text
    assert left == [""]


@pytest.mark.parametrize("flow", [flows.run_step, flows.label_all])
def test_what_a_task_knows_of_its_flow_can_travel(flow: object) -> None:
    assert cloudpickle.dumps(flow), "Ray takes the flow along with every task"
