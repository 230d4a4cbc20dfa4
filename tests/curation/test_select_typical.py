"""Thresholds relative to what is typical: no class goes because CLIP knows it badly, and faults are still found."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.curation.select import Calibrated, SelectConfig, SelectionError, decide, select
from maskmill.curation.select.typical import HIGHEST, location, typical_cuts
from tests.curation.score_tables import NO_PAIRS, Row, cleaned, faithful, kept, reasons, score_row, score_table

STARTER = SelectConfig(preset="starter")
LEVELS = {1: 0.6, 2: 0.5, 3: 0.12}  # what CLIP makes of three classes; the third is one it knows badly


def photos(seed: int, faulty: float = 0.0, count: int = 25) -> tuple[list[Row], set[str]]:
    """Samples of three classes, a share of each with a spoilt image or mask; the ids of the sound ones."""
    rng = np.random.default_rng(seed)
    rows, sound = [], set()
    for c, level in LEVELS.items():
        for i in range(count):
            image, mask = level * rng.lognormal(0, 0.2, 2)
            if i < faulty * count:
                image, mask = (image * 0.05, mask) if i % 2 else (image, mask * 0.15)
            name = f"{c}-{i:03d}"
            rows.append(score_row(name, mask, image, classes={c: mask}))
            if i >= faulty * count:
                sound.add(name)
    return rows, sound


@pytest.mark.parametrize("faulty", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_default_keeps_every_class_and_finds_the_faults(seed: int, faulty: float) -> None:
    rows, sound = photos(seed, faulty)
    stays = kept(select(score_table(rows), NO_PAIRS, STARTER))
    for c in LEVELS:
        own = {name for name in sound if name.startswith(f"{c}-")}
        assert len(stays & own) >= 0.9 * len(own)
    assert not stays - sound


def test_one_threshold_for_all_drops_the_class_that_clip_knows_least() -> None:
    rows, _ = photos(0)
    config = faithful(pcs_tau=None, image_score_tau={"method": "mixture"}, rho=1)
    assert not any(name.startswith("3-") for name in kept(select(score_table(rows), NO_PAIRS, config)))


def test_a_clip_that_is_low_as_a_whole_stays_and_its_spoilt_frames_go() -> None:
    rows = [score_row(f"a{i:02d}", 0.6 + i / 200) for i in range(40)]
    rows += [score_row(f"b{i:02d}", 0.16 + i / 500) for i in range(20)] + [score_row(f"c{i}", 0.02) for i in range(3)]
    clips = pl.Series("clip", [None] * 40 + ["b"] * 23, dtype=pl.String)
    config = cleaned(pcs_tau=None, min_score={"method": "typical"}, rho=1)
    with_clips = kept(select(score_table(rows).with_columns(clips), NO_PAIRS, config))
    assert with_clips == {row["sample_id"] for row in rows if row["sample_id"][0] != "c"}
    assert not any(name.startswith("b") for name in kept(select(score_table(rows), NO_PAIRS, config)))


def test_a_class_of_few_samples_is_held_against_all() -> None:
    rows = [score_row(f"{i:02d}", 0.5 + i / 500) for i in range(40)]
    low = [score_row(f"low-{i}", 0.05, classes={2: 0.05}) for i in range(30)]
    config = cleaned(pcs_tau=None, min_score={"method": "typical"}, rho=1)
    assert "low-0" not in kept(select(score_table([*rows, low[0]]), NO_PAIRS, config))
    assert "low-0" in kept(select(score_table(rows + low), NO_PAIRS, config))


def test_spread_raises_the_cut_where_sound_scores_lie_close_together() -> None:
    rng = np.random.default_rng(0)

    def share(spread: float, spreads: float | None = 3.5) -> float:
        rows = [score_row(f"{i:03d}", 0.5 * (1 + spread * rng.normal())) for i in range(200)]
        table = score_table(rows).with_row_index("row")
        found = typical_cuts(table, "asf", Calibrated(method="typical", share=0.4, spreads=spreads))
        assert found is not None
        return found.share

    assert share(0.01) == HIGHEST
    assert 0.42 < share(0.12) < 0.62
    assert share(0.3) == 0.4
    assert share(0.01, None) == 0.4


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shuffled=st.integers(0, 1000))
def test_cuts_follow_the_scale_and_not_the_order(seed: int, scale: float, shuffled: int) -> None:
    rows, _ = photos(seed, 0.2)
    asked = Calibrated(method="typical", spreads=3.5)
    table = score_table(rows).with_row_index("row")
    one = typical_cuts(table, "asf", asked)
    two = typical_cuts(
        table.sample(fraction=1, shuffle=True, seed=shuffled).with_columns(pl.col("asf") * scale), "asf", asked
    )
    assert one is not None
    assert two is not None
    assert one.share == pytest.approx(two.share, rel=1e-4)
    assert (one.cuts["cut"] * scale).to_list() == pytest.approx(two.cuts.sort("row")["cut"].to_list(), rel=1e-4)


def test_location_is_not_pulled_down_by_faults() -> None:
    sound = np.linspace(0.4, 0.6, 101)
    assert location(np.concatenate([np.zeros(90), sound]), 0.4) == pytest.approx(0.5)


@pytest.mark.parametrize("scores", [[], [0.0, 0.0, 0.0], [0.3]])
def test_nothing_to_compare_with_keeps_all(scores: list[float]) -> None:
    rows = [score_row(f"{i}", value, value) for i, value in enumerate(scores)]
    assert len(kept(select(score_table(rows), NO_PAIRS, STARTER))) == len(rows)


def test_a_decision_names_score_cut_and_what_is_typical() -> None:
    rows, _ = photos(1, 0.2)
    selection = decide(score_table(rows), NO_PAIRS, STARTER)
    low = selection.decisions.filter(pl.col("reason") == "low_asf")
    assert low.height > 0
    assert (low["score"] < low["threshold"]).all()
    assert low["detail"].str.contains(r"asf must reach 0\.\d+, 0\.\d+ of what is typical of its kind \(0\.\d+\)").all()
    assert {f"{name} of class {c}" for name in ("image_score_tau", "min_score") for c in LEVELS} == set(
        selection.thresholds
    )


# Photos without masks


def test_photos_without_masks_are_selected_by_their_images() -> None:
    rows = [score_row(f"{i:02d}", None, 0.5, label_ids=[1 + i % 2]) for i in range(30)] + [
        score_row("spoilt", None, 0.01, label_ids=[1])
    ]
    assert reasons(select(score_table(rows), NO_PAIRS, STARTER))["spoilt"] == "low_image_score"
    assert len(kept(select(score_table(rows), NO_PAIRS, STARTER))) == 30
    with_masks = [score_row(f"m{i:02d}", 0.5, 0.4 + i / 100) for i in range(30)]
    assert len(kept(select(score_table(rows + with_masks), NO_PAIRS, STARTER))) == 60


@pytest.mark.parametrize("more", [{"rho": 0.5}, {"quotas": {1: 3}}, {"min_score": 0.2}])
def test_what_is_to_be_ranked_or_held_to_a_number_needs_a_mask(more: dict) -> None:
    rows = [score_row(f"{i:02d}", None, 0.5, label_ids=[1]) for i in range(5)]
    with pytest.raises(SelectionError):
        select(score_table(rows), NO_PAIRS, SelectConfig.model_validate({"preset": "starter", **more}))
