"""One task does a group of shards: it does what is due, says what it did, and opens its step once."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from prefect.states import State

import flows
from maskmill.data_contracts import list_shards
from maskmill.pipelines.run import bare
from maskmill.pipelines.run.config import load_run_config
from maskmill.pipelines.run.run import save_config
from maskmill.pipelines.run.timings import StepTime
from tests.pipelines.test_cli import TINY
from tests.pipelines.test_scan import write_pairs


@pytest.fixture
def config_path(tmp_path: Path) -> Iterator[str]:
    write_pairs(tmp_path / "pets", 1, count=5)
    sets = {"source.root": str(tmp_path / "pets"), "label_space": ["cat"], "run_dir": str(tmp_path / "run"), **TINY}
    yield save_config(load_run_config("folder", {**sets, "shard_size": 2}))
    flows.opened_step.cache_clear()


def shards(path: str) -> list[str]:
    return [shard.rsplit("/", 1)[1] for shard in list_shards(f"{path.rsplit('/', 1)[0]}/samples")]


def test_a_group_of_shards_is_done_by_one_task(config_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    really = flows.open_step
    monkeypatch.setattr(flows, "open_step", lambda *args: opened.append(args) or really(*args))
    assert flows.run_shards.fn(config_path, "ingest", 1, 2, "first") == {"kept": 3}
    assert shards(config_path) == ["shard-00001.parquet", "shard-00002.parquet"]
    assert flows.run_shards.fn(config_path, "ingest", 0, 3, "first") == {"kept": 5}, "what is there is counted, too"
    again = flows.run_shards.fn(config_path, "ingest", 0, 3, "first")
    assert isinstance(again, State)
    assert again.message == "already done"
    assert len(opened) == 1
    flows.run_shards.fn(config_path, "ingest", 0, 1, "second pass")
    assert len(opened) == 2, "another pass sees what has changed since"


def test_the_model_alone_is_measured_where_the_shards_are_done(
    config_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scorer:
        device = "abacus"

        def bare_rate(self, samples: pa.Table) -> float:
            return 12.3456 * samples.num_rows

    monkeypatch.setattr(bare, "open_scorer", lambda *_: Scorer())
    monkeypatch.setattr(flows, "gpu_turn", nullcontext)
    bare._bare.cache_clear()
    assert flows.measure_model.fn(config_path, "score") == ("", None), "nothing was ingested"
    flows.run_shards.fn(config_path, "ingest", 0, 3, "first")
    assert flows.measure_model.fn(config_path, "score") == ("abacus", 24.69)
    assert flows.measure_model.fn(config_path, "ingest") == ("", None)
    config = load_run_config(config_path)
    assert bare.timed(config, "score", 0.50004, 2, 8) == StepTime("score", 0.5, 2, 8, "abacus", 24.69)
    assert bare.timed(config, "score", 0.5, 0, 8) == StepTime("score", 0.5, 0, 8)
    assert bare.time_of("score", 0.5, 2, 8, OSError("no model")) == StepTime("score", 0.5, 2, 8)
    bare._bare.cache_clear()
