"""Verdicts of people: a journal that loses none, and a next run that honours them everywhere it speaks of samples."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    DamagedError,
    Relabel,
    decode_mask,
    list_shards,
    read_shard,
)
from maskmill.pipelines.cli.main import app
from maskmill.pipelines.core.ledger import Ledger
from maskmill.pipelines.core.verdicts import (
    JOURNAL,
    Verdict,
    append_verdict,
    honoured,
    journal_fault,
    news,
    read_journal,
    read_reviewed,
)
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.diff import diff_runs
from maskmill.pipelines.run.explain import explain_sample
from maskmill.pipelines.run.plan import plan
from maskmill.pipelines.run.run import run
from maskmill.pipelines.run.verify import verify
from maskmill.pipelines.stages.select import VerdictError
from maskmill.trainers.engine.samples import DataConfig, Samples
from tests.pipelines.ingest_sets import make_folder
from tests.pipelines.test_cli import TINY

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def said(sample_id: str, verdict: str, **more: Any) -> Verdict:
    return Verdict.model_validate({"sample_id": sample_id, "verdict": verdict, "who": "anna", "at": AT, **more})


# The journal


def test_the_last_word_counts_and_a_word_can_be_taken_back(tmp_path: Path) -> None:
    assert read_reviewed(str(tmp_path)) is None
    for verdict in (
        said("a", "keep"),
        said("b", "reject", why="blurred"),
        said("a", "none", note="hm"),
        said("b", "none"),
    ):
        append_verdict(str(tmp_path), verdict)
    assert [v.verdict for v in read_journal(str(tmp_path))] == ["keep", "reject", "none", "none"]
    reviewed = read_reviewed(str(tmp_path))
    assert reviewed is not None
    assert {i: v.note for i, v in reviewed.verdicts.items()} == {"a": "hm"}, "a note alone stays, b was taken back"
    assert reviewed.table().to_pylist()[0]["at"] == AT
    assert news(str(tmp_path)) == 1


@pytest.mark.parametrize("cut", [1, 40, 120])
def test_a_line_that_was_cut_off_is_mended_by_the_next(tmp_path: Path, cut: int) -> None:
    for name in "ab":
        append_verdict(str(tmp_path), said(name, "keep", note="größer"))
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    left = ["a", "b"] if cut == 1 else ["a"]  # without its line end alone the last one is whole
    assert journal_fault(path.read_bytes()) is None
    assert [v.sample_id for v in read_journal(str(tmp_path))] == left
    append_verdict(str(tmp_path), said("c", "keep"))
    assert [v.sample_id for v in read_journal(str(tmp_path))] == [*left, "c"]


def test_a_flipped_bit_is_seen_and_no_verdict_is_lost_in_silence(tmp_path: Path) -> None:
    for name in "abc":
        append_verdict(str(tmp_path), said(name, "keep"))
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in {0, whole.index(b"\n"), len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}:
        changed = bytearray(whole)
        changed[position] ^= 1 << int(rng.integers(0, 7))
        assert journal_fault(bytes(changed)), position
    path.write_bytes(whole.replace(b'"keep"', b'"none"', 1))
    with pytest.raises(DamagedError, match=r"line 1.*copy"):
        read_reviewed(str(tmp_path))


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_verdict(str(tmp_path), said("a", "keep"))
    before = (tmp_path / JOURNAL).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_verdict(str(tmp_path), said("b", "keep"))
    assert (tmp_path / JOURNAL).read_bytes() == before


@pytest.mark.parametrize("wrong", [{"to_class_id": 2}, {"from_class_id": 1}, {"verdict": "relabel"}, {"who": " "}])
def test_verdicts_that_say_nothing_that_can_be_done(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        said("a", **{"verdict": "keep", **wrong})


# The next run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    home = tmp_path_factory.mktemp("verdicts")
    make_folder(home / "set", list("abcdefgh"))
    sets = {"source.root": str(home / "set"), "run_dir": str(home / "run"), "shard_size": 3, **TINY}
    names = {"label_space": ["cat", "dog", "cow"], "select.min_score": None, "select.image_score_tau": None}
    formats = {"export": [{"format": "hf"}, {"format": "voc"}]}
    config = load_run_config("folder", {**sets, **names, "select.rho": 0.5, **formats})
    run(config)
    return config


@pytest.fixture
def config(finished: RunConfig, tmp_path: Path) -> RunConfig:
    """A finished run of its own."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    mine = finished.model_copy(update={"run_dir": str(tmp_path / "run")})
    run(mine)
    return mine


def decided(config: RunConfig) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in read_shard(f"{config.run_dir}/decisions.parquet", DECISION).to_pylist()}


def split(config: RunConfig) -> tuple[list[str], list[str]]:
    """Ids that scores keep, and those that they turn away."""
    rows = decided(config)
    return tuple([name for name, row in rows.items() if row["kept"] is kept] for kept in (True, False))  # type: ignore[return-value]


def exported(config: RunConfig) -> dict[str, dict[str, Any]]:
    shards = Path(config.run_dir, "export/hf/data").rglob("*.parquet")
    return {row["sample_id"]: row for path in shards for row in pl.read_parquet(path).to_dicts()}


def words_of(config: RunConfig) -> str:
    return next(line.words for line in plan(config) if line.step == "select")


def test_the_next_run_honours_what_people_said(config: RunConfig, finished: RunConfig) -> None:
    assert run(config).idle, "nobody reviewed it: it is done"
    before = {path: path.read_bytes() for path in Path(config.run_dir).rglob("*.json") if path.name == "ledger.json"}
    assert all(b"review" not in data for data in before.values())
    kept, away = split(config)
    dog = config.space.find("dog")
    for verdict in (
        said(kept[0], "reject", why="blurred"),
        said(away[0], "keep"),
        said(kept[1], "relabel", to_class_id=dog.id, to_class="dog", note="a dog, surely"),
    ):
        append_verdict(config.run_dir, verdict)
    assert words_of(config) == "3 new verdicts"
    waiting = str(explain_sample(config.run_dir, kept[0], config))
    assert "review: reject, by anna on 2026-03-01 12:30 UTC: blurred" in waiting
    assert "the next run honours it" in waiting

    done = run(config)
    rows = decided(config)
    assert (rows[kept[0]]["reason"], rows[kept[0]]["stage"]) == ("rejected_in_review", "review")
    assert rows[away[0]]["kept"]
    assert (rows[kept[1]]["kept"], rows[kept[1]]["relabel_to"]) == (True, dog.id)
    assert words_of(config) == "all done"
    assert run(config).idle
    assert set(honoured(config.run_dir)) == {kept[0], away[0], kept[1]}

    sentence = "Judged by 1 person: 3 samples (1 kept, 1 rejected, 1 relabelled to dog)."
    ledger = Ledger.read(f"{config.run_dir}/ledger.json")
    assert ledger == done.ledger
    assert ledger.review is not None
    assert ledger.review.words == sentence
    assert ledger.counts["rejected_in_review"] == 1
    assert ledger.class_counts(config.space)["dog"] == 1
    assert sentence in Path(config.run_dir, "export/hf/README.md").read_text()
    assert sentence in Path(config.run_dir, "export/voc/README.md").read_text()
    croissant = json.loads(Path(config.run_dir, "export/hf/croissant.json").read_text())
    assert sentence in croissant["rai:dataAnnotationProtocol"]
    assert sentence in Path(config.run_dir, "report/index.html").read_text()

    row = exported(config)[kept[1]]
    assert row["class_ids"] == [dog.id]
    assert set(np.unique(decode_mask(row["mask"]["bytes"], ""))) - {0, 255} == {dog.id}
    assert json.loads(row["provenance"]["extra"])["relabelled"] == {"from": [1], "to": dog.id}
    assert kept[0] not in exported(config)
    assert away[0] in exported(config)

    told = str(explain_sample(config.run_dir, kept[1], config))
    assert "relabel to dog, by anna on 2026-03-01 12:30 UTC: a dog, surely" in told
    assert "exported as dog" in told
    difference = list(diff_runs(finished.run_dir, config.run_dir).lines())
    assert any("1 samples kept → rejected in review" in line for line in difference)
    assert any("1 samples under another class" in line for line in difference)
    assert any("3 samples with another verdict" in line for line in difference)
    assert verify(config.run_dir).faults == ()
    assert verify(config.run_dir).without_hashes == ()


def test_what_is_taken_back_is_forgotten(config: RunConfig) -> None:
    usual = decided(config)
    kept, _ = split(config)
    append_verdict(config.run_dir, said(kept[0], "reject"))
    run(config)
    assert decided(config) != usual
    append_verdict(config.run_dir, said(kept[0], "none"))
    assert words_of(config) == "1 new verdict"
    run(config)
    assert decided(config) == usual
    assert honoured(config.run_dir) == {}
    assert run(config).idle


def test_training_sees_the_label_that_people_gave(config: RunConfig) -> None:
    kept, _ = split(config)
    append_verdict(config.run_dir, said(kept[0], "relabel", from_class_id=1, to_class_id=3, to_class="cow"))

    def opened() -> Samples:
        data = {"samples": f"{config.run_dir}/samples", "decisions": f"{config.run_dir}/decisions.parquet"}
        return Samples.open(DataConfig.model_validate(data), config.run_dir + "/cache")

    before = opened()
    run(config)
    samples = opened()
    at = samples.ids.index(kept[0])
    assert samples.infos[at].class_ids == (3,)
    mask = samples.example(at).mask
    assert mask is not None
    assert 3 in mask
    assert 1 not in mask
    assert samples.fingerprint != before.fingerprint


def test_a_class_that_became_another_one_is_refused(config: RunConfig) -> None:
    kept, _ = split(config)
    append_verdict(config.run_dir, said(kept[0], "relabel", to_class_id=2, to_class="horse"))
    with pytest.raises(VerdictError, match=f"{kept[0]}.*class 2 to be horse, found class dog.*judge the sample again"):
        run(config)


def test_damage_is_seen_by_verify_and_stops_selection(config: RunConfig) -> None:
    kept, _ = split(config)
    append_verdict(config.run_dir, said(kept[0], "reject"))
    path = Path(config.run_dir, JOURNAL)
    path.write_bytes(path.read_bytes().replace(b"reject", b"rejecc"))
    assert [fault.path for fault in verify(config.run_dir).faults] == [JOURNAL]
    with pytest.raises(DamagedError, match=JOURNAL):
        run(config)


def test_the_console_says_it(config: RunConfig) -> None:
    kept, _ = split(config)
    append_verdict(config.run_dir, said(kept[0], "reject", why="blurred"))
    told = CliRunner().invoke(app, ["run", f"{config.run_dir}/config.json", "--set", f"run_dir={config.run_dir}"])
    assert told.exit_code == 0, told.output
    assert "Judged by 1 person: 1 sample (1 rejected)." in told.output
    assert "rejected by anna on 2026-03-01 12:30 UTC: blurred" in told.output


# Relabelling a row


def test_a_relabelled_row_says_what_it_was() -> None:
    from maskmill.data_contracts import LabelSpace
    from tests.factories import make_sample

    space = LabelSpace.from_names(["cat", "dog", "cow"])
    row = make_sample(np.random.default_rng(0), space, ids=(1, 2))
    row["instances"] = [{"class_id": 1, "box": None, "rle": None}, {"class_id": 2, "box": None, "rle": None}]
    before = decode_mask(row["mask"]["bytes"], "")  # type: ignore[index]
    one = Relabel(1, 3).row(row)
    assert one["class_ids"] == [2, 3]
    assert [entry["class_id"] for entry in one["instances"]] == [3, 2]
    now = decode_mask(one["mask"]["bytes"], "")
    assert ((now == 3) == (before == 1)).all()
    assert ((now == 2) == (before == 2)).all()
    assert ((now == 255) == (before == 255)).all()
    whole = Relabel(None, 2).row(row)
    assert whole["class_ids"] == [2]
    assert ((decode_mask(whole["mask"]["bytes"], "") == 2) == np.isin(before, (1, 2))).all()
    assert json.loads(whole["provenance"]["extra"])["relabelled"] == {"from": [1], "to": 2}
    SAMPLE.table([{**whole, "instances": None}])
    assert list_shards("nowhere") == []
