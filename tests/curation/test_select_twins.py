"""Near-duplicates: said of kept samples alone, never between frames of one clip, and nobody goes without cause."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.curation.select import SelectConfig, select
from tests.curation.score_tables import NO_PAIRS, cleaned, kept, pairs, random_rows, reasons, score_row, score_table

sets = st.builds(random_rows, count=st.integers(0, 40), seed=st.integers(0, 1000))
cuts = st.sampled_from(
    [
        {"rho": 1.0},
        {"rho": 0.4},
        {"rho": 0.4, "group_by": "class"},
        {"rho": 1.0, "group_by": "class", "max_per_class": 3},
        {"rho": 1.0, "near_duplicates": "cluster", "group_by": "class", "quotas": {1: 2, 2: 0}},
        {"rho": 0.5, "near_duplicates": "cluster"},
    ]
)
floors = st.sampled_from([None, 0.3, 0.6, {"method": "otsu"}, {"method": "quantile", "keep": 0.5}])


def random_pairs(rows: list[dict], seed: int, share: float = 0.1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    ids = [row["sample_id"] for row in rows]
    near = [pair for pair in itertools.combinations(ids, 2) if rng.random() < share]
    return pairs(*((a, b, float(rng.choice([0.95, 0.97, 0.99]))) for a, b in near))


@settings(max_examples=120, deadline=None)
@given(rows=sets, seed=st.integers(0, 1000), cut=cuts, floor=floors)
def test_a_duplicate_is_only_ever_said_of_a_kept_sample(rows: list[dict], seed: int, cut: dict, floor: object) -> None:
    near = random_pairs(rows, seed)
    decisions = select(score_table(rows), near, cleaned(**cut, min_score=floor))
    stays = kept(decisions)
    said = decisions.filter(pl.col("reason") == "near_duplicate")
    assert set(said["duplicate_of"]) <= stays
    assert (said["score"] >= np.float32(0.96)).all()
    assert decisions.filter(pl.col("reason") != "near_duplicate")["duplicate_of"].null_count() == len(rows) - len(said)


@settings(max_examples=60, deadline=None)
@given(rows=sets, seed=st.integers(0, 1000), floor=floors)
def test_no_two_kept_samples_are_alike_and_nobody_is_dropped_without_a_twin(
    rows: list[dict], seed: int, floor: object
) -> None:
    near = random_pairs(rows, seed)
    alike = {frozenset(p) for p in near.filter(pl.col("similarity") > 0.96).select("sample_id", "other_id").iter_rows()}
    with_twins = select(score_table(rows), near, cleaned(rho=1, min_score=floor))
    stays = kept(with_twins)
    assert not any(frozenset(p) in alike for p in itertools.combinations(stays, 2))
    for lost in kept(select(score_table(rows), NO_PAIRS, cleaned(rho=1, min_score=floor))) - stays:
        assert any(frozenset((lost, other)) in alike for other in stays)


def test_a_twin_of_a_sample_below_the_floor_stays() -> None:
    """The better of the two by ASF is turned away by its image score; the other must not go as its duplicate."""
    rows = [score_row("a-spoilt", 0.9, 0.05), score_row("b-sound", 0.6, 0.5)]
    config = cleaned(rho=1, pcs_tau=0.1)
    assert reasons(select(score_table(rows), pairs(("a-spoilt", "b-sound", 0.99)), config)) == {
        "a-spoilt": "low_pcs",
        "b-sound": "kept",
    }
    low = [score_row("a-best", 0.3), score_row("b-worse", 0.2)]
    decisions = select(score_table(low), pairs(("a-best", "b-worse", 0.99)), cleaned(rho=1, min_score=0.5))
    assert set(decisions["reason"]) == {"low_asf"}


def test_a_sample_that_made_way_for_one_below_its_quota_falls_with_it() -> None:
    rows = [score_row("a-top", 0.9), score_row("b-second", 0.8), score_row("c-copy-of-b", 0.7)]
    decisions = select(score_table(rows), pairs(("b-second", "c-copy-of-b", 0.99)), cleaned(rho=0.5))
    assert reasons(decisions) == {"a-top": "kept", "b-second": "below_quota", "c-copy-of-b": "below_quota"}
    assert "b-second" in decisions.filter(pl.col("sample_id") == "c-copy-of-b")["detail"].item()


def test_a_sample_that_is_like_a_better_and_a_kept_one_names_the_kept_one() -> None:
    rows = [score_row("a", 0.9), score_row("b", 0.8, classes={1: 0.8, 2: 0.8}), score_row("c", 0.7)]
    near = pairs(("a", "c", 0.97), ("b", "c", 0.99))
    config = cleaned(group_by="class", rho=1, quotas={1: 1, 2: 0})
    decisions = select(score_table(rows), near, config)
    assert reasons(decisions) == {"a": "kept", "b": "below_quota", "c": "near_duplicate"}
    assert decisions.filter(pl.col("sample_id") == "c")["duplicate_of"].item() == "a"


@pytest.mark.parametrize(("mode", "lost"), [("best", {"d"}), ("cluster", {"b", "d"}), ("keep", set())])
def test_frames_of_one_clip_are_wanted(mode: str, lost: set[str]) -> None:
    rows = [score_row(name, score) for name, score in zip("abcd", (0.9, 0.8, 0.7, 0.6), strict=True)]
    clips = pl.Series("clip", ["one", "one", None, None])
    near = pairs(("a", "b", 0.99), ("c", "d", 0.99))
    config = SelectConfig(preset="faithful", rho=1, near_duplicates=mode)
    decisions = select(score_table(rows).with_columns(clips), near, config)
    assert {name for name, reason in reasons(decisions).items() if reason == "near_duplicate"} == lost
