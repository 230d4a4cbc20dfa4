"""Of a run what no larger test sees: rounds by their records, plans and differences in words, what would change."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskmill.data_contracts import PROMPT, Reason, list_shards, read_shard
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run import diff, explain, outlook, plan
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.rounds import Rounds
from maskmill.pipelines.run.run import rounds_of
from maskmill.pipelines.run.timings import StepTime
from tests.factories import FakeRun, make_run

# Rounds


def config_at(folder: Path, **generate: Any) -> RunConfig:
    given = {"generator": {"steps": 2}, "prompts": {"classes": ["dog", "cat"]}, **generate}
    return load_run_config("starter-generator", {"run_dir": str(folder), "shard_size": 8, "generate": given})


def opened(config: RunConfig) -> Rounds:
    rounds = rounds_of(config)
    assert rounds is not None
    return rounds


def record(rounds: Rounds, number: int, *outcomes: list[Any], stamp: str | None = None) -> None:
    path = Path(rounds._record(number))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"stamp": stamp or rounds._stamp, "shards": number + 2, "outcomes": list(outcomes)}
    path.write_text(json.dumps(content))


def test_quotas_by_name_or_one_for_all(tmp_path: Path) -> None:
    config = config_at(tmp_path, quota={"dog": 7})
    assert config.generate is not None
    space = config.space
    dog, cat = (space.find(name).id for name in ("dog", "cat"))
    assert config.generate.quotas(space) == {dog: 7}
    one = config_at(tmp_path, quota=3).generate
    assert one is not None
    assert one.quotas(space) == {dog: 3, cat: 3}
    none = config_at(tmp_path).generate
    assert none is not None
    assert none.quotas(space) == {dog: 0, cat: 0}


def test_without_a_quota_there_is_one_round(tmp_path: Path) -> None:
    rounds = opened(config_at(tmp_path, per_class=6))
    assert rounds.open() is True
    shards = list_shards(f"{tmp_path}/prompts")
    assert [read_shard(path, PROMPT).num_rows for path in shards] == [8, 4]
    record(rounds, 0)
    assert rounds.open() is False
    assert rounds.hard_classes() == []
    record(rounds, 0, stamp="of other settings")
    assert rounds.open() is True


def test_rounds_are_counted_by_their_records(tmp_path: Path) -> None:
    rounds = opened(config_at(tmp_path, quota=500, budget=10))
    assert rounds._finished()[::2] == (0, 0)
    space = load_run_config("starter-generator").space
    dog = space.find("dog").id
    first, second = ["a", [dog], True, "kept", [dog]], ["b", [dog], False, "low_asf", []]
    record(rounds, 0, first)
    record(rounds, 1, first, second)
    number, state, shards = rounds._finished()
    assert (number, state.rounds, shards) == (2, 2, 3)
    assert (state.of(dog).tried, state.of(dog).kept) == (2, 1)
    record(rounds, 1, first, second, stamp="of other settings")
    assert rounds._finished()[0] == 1
    record(rounds, 0, *[first] * 10)  # the budget is spent
    Path(rounds._record(1)).unlink()
    assert rounds.open() is False


# Plans


def test_a_plan_counts_what_it_knows() -> None:
    line = plan.PlanLine("score", 4, 3, {"not done yet": 2, "damaged": 1}, {"made with torch 1": 1}, ("a: 1 → 2",))
    assert line.words == "2× not done yet; 1× damaged; a: 1 → 2; 1× made with torch 1"
    assert plan.PlanLine("score", 1, 1, {"not done yet": 1}).words == "not done yet"
    assert plan.PlanLine("score", 0, 0, {"unknown until ingest has run": 1}, waits_for="ingest").words.startswith("unk")
    assert plan.PlanLine("score", 4, 0, {}).words == "all done"
    assert plan.PlanLine("score", 4, 4, {"x": 4}, waits_for="ingest").words == "x"


def test_a_plan_names_keys_where_they_matter_and_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(tmp_path / f"data/images/{number}.png")
        Image.fromarray(np.eye(32, dtype=np.uint8) * 15).save(tmp_path / f"data/masks/{number}.png")
    source = {"kind": "folder", "root": str(tmp_path / "data"), "licence": "CC0-1.0"}
    config = load_run_config(
        "folder", {"source": source, "run_dir": str(tmp_path / "run"), "shard_size": 2, "label_space": "voc"}
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(config.model_copy(update={"shard_size": 3}).model_dump_json())
    times = {"ingest": StepTime("ingest", 10.0, 5), "score": StepTime("score", 7.04, 5)}
    monkeypatch.setattr(plan, "known_times", lambda _: (times, None))
    first, second, *_ = plan.plan(config)
    assert (first.step, first.units, first.to_run, first.seconds) == ("ingest", 2, 2, 4.0)
    assert first.changed == ("shard_size: 3 → 2",)
    assert (second.step, second.waits_for, second.seconds, second.changed) == ("score", "ingest", 7.0, ())


def test_a_generator_that_is_here_is_looked_at_and_one_that_is_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskmill.generators import loading

    config = config_at(tmp_path, generator={"model": "somebody/model", "steps": 2})
    monkeypatch.setattr(loading, "local_model", lambda _: None)
    assert plan._not_here(config, "generate") == "not done yet; somebody/model is fetched when the run starts"
    assert plan._not_here(config, "score") is None
    monkeypatch.setattr(loading, "local_model", lambda model: model)
    assert plan._not_here(config, "generate") is None


# Differences


def test_keys_that_differ_are_dotted_and_those_of_the_place_left_out() -> None:
    before = {"run_dir": "a", "workers": 1, "select": {"rho": 0.5, "run_dir": "x"}, "name": "n", "gone": 1}
    after = {"run_dir": "b", "workers": 2, "select": {"rho": 0.6, "run_dir": "y"}, "name": "n", "new": {"a": [1]}}
    found = [(one.key, one.before, one.after) for one in diff.key_changes(before, after)]
    assert found == [
        ("select.rho", 0.5, 0.6),
        ("select.run_dir", "x", "y"),
        ("gone", 1, None),
        ("new", None, {"a": [1]}),
    ]
    assert next(iter(diff.key_changes({"a": {"b": 1}}, {"a": 2}))).key == "a"


def test_differences_in_words_are_short() -> None:
    assert str(diff.KeyChange("a", "x" * 58, None)) == f'a: "{"x" * 58}" → null'  # 60 characters with its quotes
    assert str(diff.KeyChange("a", None, "x" * 59)) == f'a: null → "{"x" * 56}…'
    ids = tuple(f"{number}" * 20 for number in range(4))
    lines = list(diff.RunDiff((), {"kept": (4, 0), "low_asf": (1, 1)}, (), relabelled=ids).lines())
    assert lines[0].endswith("4 → 0")
    assert lines[1:] == ["4 samples under another class: 000000000000, 111111111111, 222222222222 and 1 more"]
    (three,) = diff.RunDiff((), {}, (), relabelled=ids[:3]).lines()
    assert three.endswith("222222222222")


def test_counts_of_reasons_that_one_run_does_not_have_are_nought(run: FakeRun, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", shards=3, duplicates=False)
    other.keep(set())
    found = diff.diff_runs(other.path, run.path)
    assert found.counts["kept"] == (0, len(run.kept))
    assert all(min(pair) >= 0 and max(pair) for pair in found.counts.values())
    assert sum(before for before, _ in found.counts.values()) == sum(after for _, after in found.counts.values())


# What would change a decision


def told(**given: Any) -> explain.Explanation:
    rest: dict[str, Any] = {"sample_id": "s", "sample": None, "decision": None, "scores": None, "limits": {}}
    return explain.Explanation(**{**rest, **given})


def test_margins_are_told_by_the_side_that_passes() -> None:
    scores = {"asf": 0.7, "pcs": 0.2, "h_orig": 0.4, "image_score": None}
    limits = {"asf": (0.5, 0.5), "pcs": (0.1, 0.3), "h_orig": (0.3, 0.3), "image_score": (0.1, 0.1)}
    found = told(scores=scores, limits=limits)
    assert list(outlook._margins(found)) == ["  ASF passes by 0.200", "  entropy fails by 0.100"]
    assert list(outlook._margins(replace(found, scores=None))) == []
    assert list(outlook.outlook("nowhere", found)) == list(outlook._margins(found))  # nothing decided, nothing to turn


@pytest.mark.parametrize(
    ("reason", "score", "words"),
    [
        (Reason.HIGH_ENTROPY, 0.5, "select.max_entropy above 0.5000, e.g. --set select.max_entropy=0.5010"),
        (Reason.LOW_ASF, 0.5, "select.min_score below 0.5000, e.g. --set select.min_score=0.4990"),
        (Reason.NEAR_DUPLICATE, 0.97, "select.duplicate_similarity above 0.9700"),
    ],
)
def test_what_to_turn_is_said_by_reason(reason: Reason, score: float, words: str) -> None:
    (line,) = outlook._change(told(decision={"reason": reason.value, "score": score}))
    assert words in line
    assert list(outlook._change(told(decision={"reason": "kept", "score": score}))) == []


def test_an_export_is_named_where_it_holds_a_kept_sample(tmp_path: Path) -> None:
    folder = tmp_path / "export/voc"
    marker = {"fingerprint": "f", "files": ["a/other.png", "a/sample-1.png"]}
    for place in (folder, tmp_path / "export/tar"):
        (place / ".maskmill").mkdir(parents=True)
    from maskmill.pipelines.export.markers import marker_path

    for name, files in (("voc", marker["files"]), ("tar", ["shard.tar"])):
        path = Path(marker_path(str(tmp_path / "export" / name), "shard-00000"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**marker, "files": files}))
    sample = {"shard": "shard-00000.parquet"}
    found = told(sample_id="sample-1", sample=sample, decision={"reason": "kept"})
    assert outlook.places(str(tmp_path), found) == ["export/tar", "export/voc/a/sample-1.png"]
    assert outlook.places(str(tmp_path), replace(found, decision={"reason": "low_asf"})) == []
    assert outlook.places(str(tmp_path), replace(found, sample=None)) == []


def test_a_label_space_is_asked_for_where_ids_say_nothing(tmp_path: Path) -> None:
    source = {"kind": "folder", "root": str(tmp_path)}
    with pytest.raises(ConfigError, match="label_space: not given"):
        _ = load_run_config("folder", {"source": source, "run_dir": "runs/x", "label_space": None}).space
