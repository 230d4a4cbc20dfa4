"""Runs as calls and objects: overrides, plan, tables, words and pictures of a run folder."""

from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import polars as pl
import pytest

import maskmill as mm
from maskmill.data_contracts import Reason, decode_image
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.explain import explain_sample
from tests.factories import FakeRun, make_run, write_decisions

DATA = Path(__file__).resolve().parent.parent / "data"
TINY = {"model": str(DATA / "tiny_clip_timm"), "image_side": 64, "refine": "none"}
SMALL: dict[str, Any] = {"source": {"count": 8, "scene": {"size": 64}}, "score": TINY, "shard_size": 5}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> mm.Run:
    return mm.run("planted-faults", run_dir=tmp_path_factory.mktemp("drawn"), **SMALL)


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    """A run folder of random numbers with near-duplicates, low scores and broken files, and a config beside it."""
    made = make_run(tmp_path / "run", shards=2, rows=6)
    config = load_run_config("planted-faults", {"run_dir": "elsewhere"})
    (tmp_path / "run" / "config.json").write_text(config.model_dump_json())
    return made


def test_a_run_comes_back_as_load_run_opens_it(drawn: mm.Run) -> None:
    again = mm.load_run(Path(drawn.path))
    assert again.samples.height == again.scores.height == again.decisions.height == again.ledger.ingested == 8
    assert again.ledger.counts == drawn.ledger.counts
    assert again.decisions["sample_id"].is_sorted()
    assert set(again.samples["sample_id"]) == set(again.scores["sample_id"]) == set(again.decisions["sample_id"])
    assert Path(again.report).is_file()


def test_the_same_call_does_nothing_again_and_tells_progress(drawn: mm.Run) -> None:
    told: list[tuple[str, str]] = []

    def progress(step: str, done: int, total: int, outcome: Any) -> None:
        told.append((step, outcome.status))

    mm.run("planted-faults", run_dir=drawn.path, progress=progress, **SMALL)
    assert {status for _, status in told} <= {"started", "skipped"}
    assert told[0][0] == "ingest"


def test_plan_says_what_would_run_and_why(drawn: mm.Run, tmp_path: Path) -> None:
    done = mm.plan("planted-faults", run_dir=drawn.path, **SMALL)
    assert done.columns == ["step", "units", "to_run", "why"]
    assert done["to_run"].sum() == 0
    assert set(done["why"]) == {"all done"}
    changed = mm.plan(drawn.config, score__temperature=0.7)
    assert changed.filter(step="score").row(0) == (
        "score",
        2,
        2,
        "2× its config or model changed; score.temperature: 0.2 → 0.7",
    )
    assert changed.filter(step="select")["why"].item().startswith("unknown until score")
    fresh = mm.plan("planted-faults", run_dir=tmp_path / "new", **SMALL)
    assert fresh.filter(step="ingest")["why"].item() == "2× not done yet"
    assert not (tmp_path / "new").exists()


def planned_for(run_dir: Path, config: Any, **overrides: Any) -> RunConfig:
    """The config that a call ends up with, by way of the plan's own resolver."""
    from maskmill.api import _resolved

    return _resolved(config, RunConfig, {"run_dir": run_dir, **overrides})


def test_every_way_to_name_a_config_and_to_override_it_agrees(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: planted-faults\n")
    wanted = load_run_config("planted-faults", {"run_dir": str(tmp_path), "source.count": 7, "select.rho": 0.5})
    given = ("planted-faults", str(file), file, {"extends": "planted-faults"}, load_run_config("planted-faults"))
    for config in given:
        for ways in (
            {"source": {"count": 7}, "select": {"rho": 0.5}},
            {"source__count": 7, "select__rho": 0.5},
            {"source.count": 7, "select.rho": 0.5},
        ):
            assert planned_for(tmp_path, config, **ways) == wanted


def test_a_preset_named_anew_starts_its_block_afresh(tmp_path: Path) -> None:
    faithful = load_run_config("planted-faults", {"run_dir": str(tmp_path), "select": {"preset": "faithful"}})
    assert planned_for(tmp_path, load_run_config("planted-faults"), select={"preset": "faithful"}) == faithful


def test_what_cannot_be_used_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="selekt"):
        mm.plan("planted-faults", selekt__rho=1)
    with pytest.raises(ConfigError, match="presets: "):
        mm.run("no-such-preset")
    with pytest.raises(TypeError, match="expected a path, a preset, a mapping"):
        mm.plan(7)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="expected a run folder"):
        mm.load_run(tmp_path)


def test_samples_hold_pixels_only_when_asked(drawn: mm.Run) -> None:
    assert not {"image", "mask"} & set(drawn.samples.columns)
    full = drawn.read_samples(pixels=True)
    row = full.row(0, named=True)
    image, mask = drawn.pixels(row["sample_id"])
    assert np.array_equal(image, decode_image(row["image"]["bytes"]))
    assert image.shape == (64, 64, 3)
    assert mask is not None
    assert mask.shape == (64, 64)
    assert mask.dtype == image.dtype == np.uint8


def test_a_folder_that_moved_says_where_it_lies_now(fake: FakeRun) -> None:
    assert mm.load_run(fake.path + "/").config.run_dir == fake.path


def test_tables_that_are_not_there_yet_are_empty(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", shards=1, rows=2)
    (tmp_path / "run" / "decisions.parquet").unlink()
    (tmp_path / "run" / "neighbours.parquet").unlink()
    run = mm.load_run(made.path)
    assert run.decisions.is_empty()
    assert run.decisions.schema["threshold"] == pl.Float32
    assert run.ledger.undecided == 2
    assert "not decided yet" in run.why(next(iter(made.rows)))
    assert "undecided" in repr(run)
    with pytest.raises(ValueError, match="nothing is decided yet"):
        run.show()


def test_why_tells_a_kept_sample_its_scores_thresholds_classes_and_source(fake: FakeRun) -> None:
    run = mm.load_run(fake.path)
    kept = next(d for d in fake.decisions if d["kept"] and d["score"] is None)
    row = fake.rows[str(kept["sample_id"])]
    words = run.why(str(kept["sample_id"]))
    score = run.scores.filter(sample_id=kept["sample_id"]).row(0, named=True)
    assert words.startswith(f"{kept['sample_id']}: kept\n")
    assert f"ASF {score['asf']:.3g} (turned away below 0.5)" in words
    assert f"PCS {score['pcs']:.3g} (turned away up to 0.1)" in words
    for class_id in row["class_ids"]:  # type: ignore[attr-defined]
        assert fake.space.by_id[class_id].name in words
    assert str(row["provenance"]["source_path"]) in words  # type: ignore[index]
    assert "painter, seed 7" in words
    assert "CC0-1.0" in words


def test_why_tells_a_rejected_sample_what_it_was_held_against(fake: FakeRun) -> None:
    low = next(d for d in fake.decisions if d["reason"] == Reason.LOW_ASF.value)
    words = mm.load_run(fake.path).why(str(low["sample_id"]))
    assert "rejected by select: low ASF" in words
    assert "The mask does not cover what CLIP finds" in words
    assert f"decided by {low['score']:.3g}, held against 0.5" in words


def test_why_names_duplicates_from_both_sides(fake: FakeRun) -> None:
    first, second = (str(d["sample_id"]) for d in fake.decisions[:2])
    run = mm.load_run(fake.path)
    assert f"like {second} (cosine 0.981, near duplicate)" in run.why(first)
    assert f"in its place: {first}" in run.why(second)
    assert f"like {first} (cosine 0.981, kept)" in run.why(second)


def test_why_tells_what_ingest_turned_away(fake: FakeRun) -> None:
    broken = fake.rejects[0][0]
    run = mm.load_run(fake.path)
    for asked in (str(broken["sample_id"]), str(broken["source_path"])):
        words = run.why(asked)
        assert "rejected by ingest: undecodable image" in words
        assert "Fix: replace or remove the file" in words
    with pytest.raises(KeyError, match="no pixels are stored"):
        run.pixels(str(broken["source_path"]))


def test_a_fixed_threshold_is_told_where_it_turned_nobody_away(fake: FakeRun) -> None:
    fake.keep(set(fake.rows))
    config = load_run_config("planted-faults", {"run_dir": fake.path, "select.min_score": 0.25})
    words = str(explain_sample(fake.path, next(iter(fake.rows)), config))
    assert "(turned away below 0.25)" in words


def test_thresholds_that_differ_by_class_are_a_range(fake: FakeRun) -> None:
    for decision, threshold in zip(fake.decisions, (0.4, 0.5), strict=False):
        decision.update(kept=False, reason=Reason.LOW_ASF.value, score=0.3, threshold=threshold)
    write_decisions(fake.path, fake.decisions)
    words = mm.load_run(fake.path).why(str(fake.decisions[1]["sample_id"]))
    assert "(turned away below 0.4 to 0.5, by class)" in words
    assert "held against 0.5" in words


@pytest.mark.parametrize("shorten", [lambda p: p, lambda p: Path(p).name, lambda p: str(Path(p).with_suffix(""))])
def test_a_sample_is_found_by_its_file(fake: FakeRun, shorten: Any) -> None:
    run = mm.load_run(fake.path)
    for row in run.samples.iter_rows(named=True):
        assert run.why(shorten(row["provenance"]["source_path"])).startswith(row["sample_id"])
        assert run.why(row["sample_id"][:10]).startswith(row["sample_id"])


def test_none_and_several_are_refused_with_what_there_is(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for kind in ("images", "masks"):
            (tmp_path / "set" / kind / folder).mkdir(parents=True)
    for source in ("images/cat.jpg", "masks/cat.png"):
        kind, name = source.split("/")
        (tmp_path / "set" / kind / "a" / name).write_bytes((DATA / "photos" / source).read_bytes())
    for source in ("images/hopper.jpg", "masks/hopper.png"):
        kind, name = source.split("/")
        (tmp_path / "set" / kind / "b" / f"cat{Path(name).suffix}").write_bytes((DATA / "photos" / source).read_bytes())
    small: dict[str, Any] = {"label_space": "voc", "score": TINY, "export": []}
    run = mm.run("folder", source={"root": tmp_path / "set"}, run_dir=tmp_path / "run", **small)
    with pytest.raises(KeyError, match=r"stands for 2 samples.*images/a/cat\.jpg.*images/b/cat\.jpg"):
        run.why("cat.jpg")
    assert "images/b/cat.jpg" in run.why("b/cat.jpg")
    assert "images/b/cat.jpg" in run.why("b/cat")
    for nothing in ("at.jpg", "dog", ""):
        with pytest.raises(KeyError, match="no sample with id or file"):
            run.why(nothing)


def test_show_draws_image_mask_and_score_without_a_window(drawn: mm.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("a window"))
    figure = drawn.show(4)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert not plt.get_fignums()
    drawn_axes = [axis for axis in figure.axes if axis.images]
    assert len(drawn_axes) == 8
    assert [len(axis.images) for axis in drawn_axes] == [1, 2] * 2 + [1, 2] * 2
    assert all("ASF" in axis.get_title(loc="left") for axis in drawn_axes[1::2])
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_show_chooses_by_reason_and_both_sides_without_one(fake: FakeRun) -> None:
    run = mm.load_run(fake.path)

    def reasons(figure: Any) -> list[str]:
        return [t.split("\n")[0] for axis in figure.axes[::2] if (t := axis.get_title(loc="left"))]

    assert set(reasons(run.show(2, reason="near_duplicate"))) == {"near duplicate"}
    both = reasons(run.show(4))
    assert both[:2] == ["kept", "kept"]
    assert "kept" not in both[2:]
    assert len(reasons(run.show(100))) == 12
    titles = [axis.get_title(loc="left") for axis in run.show(5).axes]
    assert titles == [axis.get_title(loc="left") for axis in run.show(5).axes]
    with pytest.raises(ValueError, match=r"no decision has it; there is: .*kept"):
        run.show(2, reason="too_green")
    with pytest.raises(ValueError, match="expected 1 or more"):
        run.show(0)


def test_a_notebook_shows_the_ledger(fake: FakeRun) -> None:
    run = mm.load_run(fake.path)
    page = run._repr_html_()
    assert fake.path in page
    assert "near duplicate" in page
    assert f"{run.ledger.kept:,}" in page
    assert "14 samples in" in repr(run)
