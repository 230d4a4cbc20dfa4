"""Of a run's ground floor what no larger test sees: orders, places in lists, which faults count as what."""

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import BaseModel

from maskmill.data_contracts import DECISION, Reason
from maskmill.pipelines.core.deployment import FOLDER, NotAllowedError, deployed
from maskmill.pipelines.core.lease import Lease, _supports
from maskmill.pipelines.core.ledger import Ledger, Rejection, ShardLedger
from maskmill.pipelines.core.settings import ConfigError, check_settings, put, unset_names
from maskmill.pipelines.core.stage import Stage, StageResult, Unit
from maskmill.pipelines.core.step import Again, ShardStep
from maskmill.pipelines.run.config import RunConfig


class Loose(BaseModel):
    parts: list[Any] = []
    word: str = ""


def test_rejections_are_told_in_the_order_of_the_run_the_most_frequent_first() -> None:
    def shard(*rejections: tuple[str, str, int]) -> ShardLedger:
        told = tuple(Rejection(stage=stage, reason=reason, rows=rows) for stage, reason, rows in rejections)
        return ShardLedger(shard="s", rows_in=0, ingested=0, kept=0, undecided=0, rejections=told)

    first = shard(("curate", "low_asf", 1), ("curate", "near_duplicate", 4), ("ingest", "empty_mask", 1))
    second = shard(("ingest", "undecodable_image", 2), ("curate", "low_asf", 4))
    found = Ledger(shards=(first, second), classes_in={}, classes_kept={}, licences=[]).rejections
    assert [(one.stage, one.reason, one.rows) for one in found] == [
        ("ingest", "undecodable_image", 2),
        ("ingest", "empty_mask", 1),
        ("curate", "low_asf", 5),
        ("curate", "near_duplicate", 4),
    ]


def test_a_label_space_deep_in_a_list_is_offered_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "offered"))
    raw = {"parts": [{"label_space": str(tmp_path / "private.yaml")}]}
    with deployed(), pytest.raises(NotAllowedError):
        check_settings(raw, Loose, "c")
    assert check_settings(raw, Loose, "c").parts == raw["parts"]


def test_names_that_are_not_set_are_found_in_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    monkeypatch.setenv("SET_HERE", "1")
    config = Loose(parts=[{"a": "x/${NOT_SET_HERE}"}, 3, None, "$SET_HERE"], word="$NOT_SET_HERE/y")
    assert list(unset_names(config)) == [("parts.0.a", "NOT_SET_HERE"), ("word", "NOT_SET_HERE")]


def test_numbers_in_a_key_are_places_of_a_list_that_there_are() -> None:
    raw: dict[str, Any] = {"parts": [{"a": 1}, {"a": 2}], "by_id": {"1": "x"}}
    put(raw, "parts.1.a", 3)
    put(raw, "by_id.1", "y")  # a key of its own where there is no list
    assert raw == {"parts": [{"a": 1}, {"a": 3}], "by_id": {"1": "y"}}
    for key, part in (("parts.2.a", "'2'"), ("parts.a", "'a'")):
        with pytest.raises(ConfigError, match=rf"parts is a list of 2, which has no key {part}; set parts itself"):
            put(raw, key, 0)


@pytest.mark.parametrize(
    ("again", "words"),
    [
        (Again(verify=True), "damaged (a.parquet"),
        (Again(recheck=True), "damaged (a.parquet"),
        (Again(), None),
    ],
)
def test_bytes_are_looked_at_when_somebody_asks(tmp_path: Path, again: Again, words: str | None) -> None:
    row = {"sample_id": "x", "stage": "made", "kept": True, "reason": Reason.KEPT.value}
    stage = Stage("made", 1, (DECISION,), "c", lambda unit: StageResult((DECISION.table([row]),), {"kept": 1}))
    path = tmp_path / "out/a.parquet"
    step = ShardStep(stage, [Unit((), (str(path),), ("s",))], str(tmp_path), again)
    assert step.run(0).status == "written"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))
    closing = tmp_path / "manifest.json"  # the run was closed after that
    closing.touch()
    late = path.stat().st_ctime_ns + 10**9
    os.utime(closing, ns=(late, late))
    found = step.why(0)
    assert found is None if words is None else str(found).startswith(words)


def made(result: StageResult, unit: Unit) -> StageResult:
    """What a stage of this name gives for any unit."""
    return result


def test_rejects_are_recorded_beside_another_output_and_tried_again_there(tmp_path: Path) -> None:
    row = {"sample_id": "x", "stage": "made", "kept": True, "reason": Reason.KEPT.value}
    again = Again(retry=frozenset({"undecodable_image"}))
    for outputs, expected in ((("a",), None), (("a", "b"), "rejects are tried again (undecodable_image)")):
        tables = tuple(DECISION.table([row]) for _ in outputs)
        result = StageResult(tables, {"undecodable_image": 1})
        stage = Stage("made", 1, (DECISION,) * len(outputs), "c", partial(made, result))
        paths = tuple(str(tmp_path / f"{len(outputs)}{name}.parquet") for name in outputs)
        step = ShardStep(stage, [Unit((), paths, ("s",))], str(tmp_path), again)
        step.run(0)
        assert step.why(0) == expected


def test_a_key_that_is_meant_is_named_whole() -> None:
    with pytest.raises(ConfigError, match=re.escape("selekt: there is no such key; did you mean select.rho?")):
        check_settings({"run_dir": "runs/x", "name": "x", "selekt": {"rho": 0.5}}, RunConfig, "c")


class Refusing:
    """A store that answers a conditional write with an error."""

    def __init__(self, words: str) -> None:
        self.words = words

    def split_path(self, path: str) -> tuple[str, str, None]:
        return "bucket", path, None

    def call_s3(self, *_: Any, **__: Any) -> None:
        raise OSError(self.words)


@pytest.mark.parametrize("words", ["Precondition Failed", "At least one of the pre-conditions", "a Conflict"])
def test_a_condition_that_does_not_hold_is_no_error(words: str) -> None:
    assert Lease(Refusing(words), "run/.lock", "s3://bucket/run")._put(IfNoneMatch="*") is False


def test_a_store_that_fails_is_an_error_and_no_lock_of_others() -> None:
    with pytest.raises(OSError, match="reduce your request rate"):
        Lease(Refusing("SlowDown: reduce your request rate"), "run/.lock", "s3://bucket/run")._put(IfNoneMatch="*")


def test_stores_that_know_conditional_writes() -> None:
    assert _supports(type("S3", (), {"protocol": ("s3", "s3a")}))
    assert not _supports(fsspec.filesystem("memory"))
    assert not _supports(type("Other", (), {"protocol": "gcs"}))
