"""What a plan says: what is unknown, which keys changed, how long it takes; and that it fetches nothing."""

from pathlib import Path
from typing import Any

import pytest

from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.plan import PlanLine, plan
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.timings import StepTime, known_times, note_times, read_times
from tests.pipelines.test_cli import TINY
from tests.pipelines.test_scan import write_pairs


def config_of(home: Path, **changes: Any) -> RunConfig:
    sets = {"source.root": str(home / "pets"), "label_space": ["cat"], "run_dir": str(home / "run"), **TINY}
    return load_run_config("folder", {**sets, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_pairs(folder / "pets", 1, count=3)
    run(config_of(folder))
    return folder


def lines(config: RunConfig) -> dict[str, PlanLine]:
    return {line.step: line for line in plan(config)}


def test_before_ingest_the_rest_is_unknown(home: Path, tmp_path: Path) -> None:
    found = lines(config_of(home, run_dir=str(tmp_path / "new")))
    assert found["ingest"].to_run == 1
    assert found["score"].waits_for == "ingest"
    assert found["score"].words.startswith("unknown until ingest")
    assert not (tmp_path / "new").exists(), "a plan writes nothing"


def test_the_key_that_changed_is_named_with_both_values(home: Path) -> None:
    found = lines(config_of(home, select__rho=0.5))
    assert found["score"].changed == ()
    assert found["select"].to_run == 1
    assert "select.rho: 1.0 → 0.5" in found["select"].words
    model = lines(config_of(home, score__temperature=0.7))["score"]
    assert "score.temperature: 0.2 → 0.7" in model.words


def test_times_are_stored_and_foretold(home: Path) -> None:
    times = read_times(str(home / "run"))
    assert times["score"].units == 1
    assert times["score"].rows == 3
    run(config_of(home))
    assert read_times(str(home / "run")) == times, "a run that does nothing measures nothing"
    foretold = lines(config_of(home, score__temperature=0.7))["score"].seconds
    assert foretold == pytest.approx(times["score"].seconds, abs=0.1)


def test_a_new_run_is_foretold_by_the_run_beside_it(home: Path) -> None:
    times, of = known_times(str(home / "other"))
    assert of == "run"
    assert times == read_times(str(home / "run"))


def test_times_of_other_steps_stay(tmp_path: Path) -> None:
    note_times(str(tmp_path), [StepTime("ingest", 2.0, 4), StepTime("score", 8.0, 4)])
    note_times(str(tmp_path), [StepTime("ingest", 0.1, 0), StepTime("score", 6.0, 2)])
    assert {name: time.per_unit for name, time in read_times(str(tmp_path)).items()} == {"ingest": 0.5, "score": 3.0}


def test_a_plan_fetches_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan must not fetch anything")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    found = lines(load_run_config("sd15-voc", {"run_dir": str(tmp_path)}))
    assert "is fetched when the run starts" in found["generate"].words
    assert found["score"].waits_for == "generate"
