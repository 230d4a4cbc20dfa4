"""Stages dedup and select over score shards on disk: resume, re-selection, order, leaks, and the account of every
sample.
"""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from maskmill.curation.dedup import DedupConfig, TestSet
from maskmill.curation.select import SelectConfig
from maskmill.data_contracts import (
    DECISION,
    NEIGHBOUR,
    SAMPLE,
    SCORE,
    read_bytes,
    read_footer,
    read_shard,
    shard_name,
    write_shard,
)
from maskmill.pipelines.core.stage import UnitReport, map_units, why_run
from maskmill.pipelines.run.checks import check_threshold
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.stages.dedup import dedup_stage, dedup_units
from maskmill.pipelines.stages.select import select_stage, select_units

Row = dict[str, object]
ALL = SelectConfig(preset="faithful", rho=1, near_duplicates="best")


def make_rows(count: int, seed: int = 0) -> list[Row]:
    """Scores with embeddings: sample i + 1 nearly repeats i for every tenth i, and every ninth has no embedding."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 32))
    for i in range(0, count - 1, 10):
        x[i + 1] = x[i] + 0.02 * rng.normal(size=32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows: list[Row] = []
    for i in range(count):
        asf, failed = float(rng.random()), i % 9 == 8
        row: Row = {
            "sample_id": f"{seed}{i:05d}",
            "label_ids": [1],
            "pcs": float(rng.random()) / 2,
            "image_score": 0.5,
            "asf": asf,
            "n_classes": 1,
            "per_class": [{"class_id": 1, "iou": asf}],
            "embedding": x[i].tolist(),
        }
        rows.append({"sample_id": row["sample_id"], "label_ids": [], "reason": "score_failed"} if failed else row)
    return rows


def write_scores(folder: Path, shards: list[list[Row]]) -> None:
    for index, rows in enumerate(shards):
        path = str(folder / "scores" / shard_name(index))
        write_shard(
            path, SCORE.table(rows), SCORE, stage="score", fingerprint=f"{index}-{len(rows)}", config_hash="clip"
        )


def split(rows: list[Row], size: int) -> list[list[Row]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def go(run: Path, dedup: DedupConfig | None = None, select: SelectConfig = ALL) -> tuple[UnitReport, UnitReport]:
    """Run both stages; their reports."""
    first = map_units(dedup_stage(dedup or DedupConfig()), dedup_units(str(run)))
    return first[0], map_units(select_stage(select), select_units(str(run)))[0]


def decisions(run: Path) -> list[Row]:
    return read_shard(str(run / "decisions.parquet"), DECISION).to_pylist()


def test_every_scored_sample_gets_one_sorted_decision(tmp_path: Path) -> None:
    rows = make_rows(60)
    write_scores(tmp_path, split(rows, 25))
    found, decided = go(tmp_path)
    table = decisions(tmp_path)
    assert [row["sample_id"] for row in table] == sorted(str(row["sample_id"]) for row in rows)
    assert Counter(row["shard"] for row in table) == {shard_name(0): 25, shard_name(1): 25, shard_name(2): 10}
    assert decided.counts == Counter(row["reason"] for row in table)
    assert decided.counts["score_failed"] == 6
    assert found.counts == {"pairs": 6, "leaks": 0}
    assert decided.counts["near_duplicate"] >= 1


def test_a_second_run_does_nothing_and_a_new_threshold_only_selects(tmp_path: Path) -> None:
    write_scores(tmp_path, split(make_rows(40), 20))
    go(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert [report.status for report in go(tmp_path)] == ["skipped", "skipped"]
    stricter = ALL.model_copy(update={"pcs_tau": 0.3})
    assert why_run(select_stage(stricter), select_units(str(tmp_path))[0]) == "its config or model changed"
    assert [report.status for report in go(tmp_path, select=stricter)] == ["skipped", "written"]
    changed = {path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp}
    assert changed == {"decisions.parquet"}


def test_other_pairs_decide_anew_and_equal_pairs_do_not(tmp_path: Path) -> None:
    write_scores(tmp_path, split(make_rows(40), 20))
    go(tmp_path)
    assert [r.status for r in go(tmp_path, DedupConfig(k=5))] == ["written", "skipped"]  # same pairs by another config
    assert [r.status for r in go(tmp_path, DedupConfig(enabled=False))] == ["written", "written"]
    assert read_shard(str(tmp_path / "neighbours.parquet"), NEIGHBOUR).num_rows == 0
    assert "near_duplicate" not in {row["reason"] for row in decisions(tmp_path)}


def test_bytes_repeat_and_the_shard_split_does_not_matter(tmp_path: Path) -> None:
    rows = make_rows(60)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for run, parts in ((one, split(rows, 20)), (two, split(rows, 20)), (three, split(rows[::-1], 7))):
        write_scores(run, parts)
        go(run)
    for name in ("neighbours.parquet", "decisions.parquet"):
        assert read_bytes(str(one / name)) == read_bytes(str(two / name))
    assert read_bytes(str(one / "neighbours.parquet")) != b""
    pairs = [read_shard(str(run / "neighbours.parquet"), NEIGHBOUR) for run in (one, three)]
    assert pairs[0].equals(pairs[1])
    plain = [[{**row, "shard": None} for row in decisions(run)] for run in (one, three)]
    assert plain[0] == plain[1]


def test_a_sample_in_two_shards_is_accounted_for_in_both(tmp_path: Path) -> None:
    rows = make_rows(20)
    write_scores(tmp_path, [rows[:12], rows[5:]])  # samples 5 to 11 are in both
    go(tmp_path)
    table = decisions(tmp_path)
    for index, shard in enumerate((rows[:12], rows[5:])):
        ids = [row["sample_id"] for row in table if row["shard"] == shard_name(index)]
        assert ids == sorted(str(row["sample_id"]) for row in shard)
    again = [row for row in table if row["reason"] == "duplicate_id"]
    assert {row["shard"] for row in again} == {shard_name(1)}
    assert len(again) == 7


def test_leaks_into_a_test_set_are_rejected_and_follow_its_contents(tmp_path: Path) -> None:
    run, held_out = tmp_path / "run", tmp_path / "held-out"
    rows, test = make_rows(30), make_rows(10, seed=7)
    test[2]["embedding"] = rows[4]["embedding"]
    write_scores(run, split(rows, 10))
    write_scores(held_out, [test])
    config = DedupConfig(test_sets=(TestSet(name="davis-val", scores=str(held_out / "scores")),))
    select = SelectConfig(preset="faithful", rho=1, pcs_tau=None)
    found, _ = go(run, config, select)
    assert found.counts["leaks"] == 1
    leak = next(row for row in decisions(run) if row["sample_id"] == rows[4]["sample_id"])
    assert (leak["reason"], leak["duplicate_of"]) == ("leaks_into_test", test[2]["sample_id"])
    assert leak["score"] == pytest.approx(1.0)
    shutil.rmtree(held_out)
    write_scores(held_out, [make_rows(11, seed=7)])
    assert [r.status for r in go(run, config, select)] == ["written", "written"]
    assert "leaks_into_test" not in {row["reason"] for row in decisions(run)}


def test_a_test_set_from_another_clip_is_pointed_out(tmp_path: Path) -> None:
    run, held_out = tmp_path / "run", tmp_path / "held-out"
    write_scores(run, [make_rows(5)])
    path = str(held_out / "scores" / shard_name(0))
    write_shard(path, SCORE.table(make_rows(5, 1)), SCORE, stage="score", fingerprint="x", config_hash="another")
    config = DedupConfig(test_sets=(TestSet(name="val", scores=str(held_out / "scores")),))
    with pytest.warns(RuntimeWarning, match="scored with another config"):
        go(run, config)
    with pytest.raises(FileNotFoundError, match="no score shards of a test set"):
        dedup_stage(DedupConfig(test_sets=(TestSet(name="val", scores=str(tmp_path / "nowhere")),)))


def test_nothing_scored_yet_means_nothing_to_do(tmp_path: Path) -> None:
    assert dedup_units(str(tmp_path)) == []
    assert select_units(str(tmp_path)) == []


def test_shards_without_any_embedding(tmp_path: Path) -> None:
    write_scores(tmp_path, [[{"sample_id": f"{i}", "label_ids": [], "reason": "score_failed"} for i in range(3)]])
    found, decided = go(tmp_path)
    assert found.counts == {"pairs": 0, "leaks": 0}
    assert decided.counts == {"score_failed": 3}


def test_backend_that_runs_is_part_of_the_config_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = DedupConfig(backend="faiss_ivf")
    exact = dedup_stage(DedupConfig(backend="exact")).config_hash
    assert dedup_stage(wanted).config_hash != exact
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="faiss is not installed"):
        assert dedup_stage(wanted).config_hash == exact


def test_frames_of_one_clip_are_no_near_duplicates(tmp_path: Path) -> None:
    """The sample shards say which samples are frames; images of a group that has no order may be duplicates."""
    rows, every = make_rows(12), ALL.model_copy(update={"pcs_tau": None})
    image = {"bytes": b"x", "path": None}
    write_scores(tmp_path, [rows])

    def lost(index: int | None) -> int:
        place = {"image": image, "height": 1, "width": 1, "class_ids": [], "provenance": {}, "group": "clip"}
        table = SAMPLE.table([{"sample_id": row["sample_id"], "index": index, **place} for row in rows])
        path = str(tmp_path / "samples" / shard_name(0))
        write_shard(path, table, SAMPLE, stage="ingest", fingerprint=f"{index}")
        return go(tmp_path, select=every)[1].counts.get("near_duplicate", 0)

    assert lost(None) == 2
    assert lost(3) == 0


def test_wrong_names_are_seen_in_the_embeddings(tmp_path: Path) -> None:
    """By the default; samples of several classes, or without embedding, are not judged."""
    rng = np.random.default_rng(0)
    centres, rows = rng.normal(size=(2, 32)), []
    for i in range(40):
        x = centres[i % 2] + 0.3 * rng.normal(size=32)
        name = 1 + i % 2 if i != 7 else 1
        row: Row = {"sample_id": f"{i:03d}", "label_ids": [name], "pcs": 0.5, "image_score": 0.5, "asf": 0.5}
        row |= {"n_classes": 1, "per_class": [{"class_id": name, "iou": 0.5}]}
        rows.append(row | {"embedding": (x / np.linalg.norm(x)).tolist()})
    rows[8] |= {"label_ids": [1, 2]}
    write_scores(tmp_path, split(rows, 15))
    config = SelectConfig(near_duplicates="keep")
    assert go(tmp_path, select=config)[1].counts == {"kept": 39, "label_swap": 1}
    assert {row["sample_id"] for row in decisions(tmp_path) if not row["kept"]} == {"007"}
    assert go(tmp_path, select=config.model_copy(update={"swap": "keep"}))[1].counts == {"kept": 40}


def test_samples_of_several_classes_alone_are_selected(tmp_path: Path) -> None:
    rows = [row | {"label_ids": [1, 2]} for row in make_rows(12) if "reason" not in row]
    write_scores(tmp_path, [rows])
    assert sum(go(tmp_path, select=SelectConfig())[1].counts.values()) == len(rows)


def test_footer_names_the_stage(tmp_path: Path) -> None:
    write_scores(tmp_path, [make_rows(12)])
    go(tmp_path)
    footer = read_footer(str(tmp_path / "decisions.parquet"))
    assert footer is not None
    assert (footer.stage, footer.rows, sum(footer.counts.values())) == ("select", 12, 12)


def test_a_released_threshold_on_tiles_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """0.1 was chosen for permuted channels."""
    source = {"source": {"kind": "folder", "root": "photos"}, "label_space": "voc"}

    def said(**more: object) -> list[str]:
        caplog.clear()
        check_threshold(RunConfig.model_validate({**source, **more}))
        return [record.message for record in caplog.records]

    (warning,) = said(score={"preset": "mended"}, select={"preset": "faithful"})
    assert "select.preset: mended" in warning
    assert said(score={"preset": "faithful"}, select={"preset": "faithful"}) == []
    assert said(score={"preset": "mended"}, select={"preset": "mended"}) == []
    assert said(score={"preset": "mended"}, select={"preset": "faithful", "pcs_tau": 0.02}) == []


def test_a_cut_that_rejects_nothing_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "pcs": 0.3 if i < 10 else 0.05} for i, row in enumerate(make_rows(20)) if "pcs" in row]
    write_scores(tmp_path, [rows])
    with caplog.at_level("WARNING", "maskmill"):
        go(tmp_path, select=SelectConfig(preset="faithful"))
    (record,) = [r for r in caplog.records if r.message.startswith("select:")]
    assert "rho is 1, so asf rejects nothing" in record.message
    caplog.clear()
    go(tmp_path, select=SelectConfig(preset="faithful", rho=0.5))
    assert not caplog.records
