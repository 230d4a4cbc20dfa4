"""Selection: the published properties S1-S4 and P6, and the contract of a decision."""

import itertools
import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from maskmill.curation.select import SelectConfig, SelectionError, decide, select
from maskmill.curation.select.config import Calibrated
from maskmill.curation.select.quotas import NO_CUT
from maskmill.data_contracts import DECISION, Reason
from tests.curation.score_tables import (
    NO_PAIRS,
    cleaned,
    faithful,
    kept,
    pairs,
    random_rows,
    reasons,
    score_row,
    score_table,
)

FAITHFUL = faithful()
shares = st.sampled_from([0.0, 0.07, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])
sets = st.builds(random_rows, count=st.integers(0, 60), seed=st.integers(0, 1000))


def survivors(rows: list[dict], tau: float = 0.1) -> list[dict]:
    return [row for row in rows if np.float32(row["pcs"]) > np.float32(tau)]


# S1, S2: how many stay


@settings(max_examples=40, deadline=None)
@given(rows=sets, rho=shares, min_keep=st.integers(0, 3))
def test_each_group_keeps_exactly_its_share(rows: list[dict], rho: float, min_keep: int) -> None:
    decisions = select(score_table(rows), NO_PAIRS, faithful(rho=rho, min_keep=min_keep))
    sizes = Counter(row["n_classes"] for row in survivors(rows))
    stays = Counter(row["n_classes"] for row in rows if row["sample_id"] in kept(decisions))
    for n, size in sizes.items():
        assert stays[n] == min(size, max(min_keep, math.ceil(round(rho * size, 9))))


@pytest.mark.parametrize("size", [100, 200, 300, 700, 1000])
def test_rounding_error_does_not_keep_one_too_many(size: int) -> None:
    assert 0.07 * 100 > 7  # the trap
    rows = [score_row(f"{i:04d}", i / size) for i in range(size)]
    assert len(kept(select(score_table(rows), NO_PAIRS, cleaned(rho=0.07)))) == size * 7 // 100


@settings(max_examples=40, deadline=None)
@given(rows=sets, rho=shares, min_keep=st.integers(0, 3))
def test_every_class_keeps_its_share(rows: list[dict], rho: float, min_keep: int) -> None:
    config = faithful(group_by="class", rho=rho, min_keep=min_keep)
    stays = kept(select(score_table(rows), NO_PAIRS, config))
    for c in range(1, 6):
        showing = [row["sample_id"] for row in survivors(rows) if c in row["label_ids"]]
        least = min(len(showing), max(min_keep, math.ceil(round(rho * len(showing), 9))))
        assert len(stays & set(showing)) >= least
    if rho == 1:
        assert stays == {row["sample_id"] for row in survivors(rows)}
    if rho == 0 and min_keep == 0:
        assert not stays


def test_a_sample_stays_for_its_best_class() -> None:
    rows = [score_row(f"{i}", 0.3, classes={1: i / 10}) for i in range(9)]
    rows.append(score_row("rare", 0.01, classes={1: 0.0, 2: 0.01}))
    decisions = select(score_table(rows), NO_PAIRS, cleaned(group_by="class", rho=0.3))
    assert "rare" in kept(decisions)
    assert "class 2" in decisions.filter(pl.col("sample_id") == "rare")["detail"].item()


def test_quotas_and_caps_count_by_class() -> None:
    rows = [score_row(f"a{i}", i / 20, classes={1: i / 20}) for i in range(20)]
    rows += [score_row(f"b{i}", i / 20, classes={2: i / 20}) for i in range(10)]
    config = cleaned(group_by="class", rho=1.0, max_per_class=6, quotas={2: 3})
    stays = kept(select(score_table(rows), NO_PAIRS, config))
    assert stays == {f"a{i}" for i in range(14, 20)} | {f"b{i}" for i in range(7, 10)}
    with pytest.raises(ValidationError, match="group_by = class"):
        faithful(quotas={1: 5})


def test_default_share_brings_half_of_all_samples() -> None:
    rows = [score_row(f"{i:03d}", i / 100, 0.5 if i % 4 else 0.05) for i in range(100)]
    selection = decide(score_table(rows), NO_PAIRS, FAITHFUL)
    assert selection.rho == pytest.approx(0.5 * 100 / 75)
    assert selection.counts["kept"] == 50
    few = [score_row(f"{i:03d}", i / 100, 0.5 if i < 30 else 0.05) for i in range(100)]
    assert decide(score_table(few), NO_PAIRS, FAITHFUL).rho == 1.0
    assert decide(score_table(few[30:]), NO_PAIRS, FAITHFUL).counts == {"low_pcs": 70}


# S3, P6: monotone, independent of order, ties by id


@settings(max_examples=30, deadline=None)
@given(rows=sets, low=shares, high=shares, by=st.sampled_from(["n_classes", "class"]))
def test_a_larger_share_keeps_all_that_a_smaller_one_kept(rows: list[dict], low: float, high: float, by: str) -> None:
    low, high = sorted((low, high))
    table = score_table(rows)
    few, many = (select(table, NO_PAIRS, cleaned(rho=rho, group_by=by)) for rho in (low, high))
    assert kept(few) <= kept(many)


@settings(max_examples=30, deadline=None)
@given(rows=sets, low=st.floats(0, 0.5), high=st.floats(0, 0.5))
def test_a_higher_gate_keeps_fewer(rows: list[dict], low: float, high: float) -> None:
    low, high = sorted((low, high))
    table = score_table(rows)
    loose, strict = (select(table, NO_PAIRS, faithful(rho=1, pcs_tau=t)) for t in (low, high))
    assert kept(strict) <= kept(loose)


def test_a_score_equal_to_the_gate_is_rejected() -> None:
    above = float(np.nextafter(np.float32(0.1), np.float32(1)))
    rows = [score_row("at", pcs=0.1), score_row("above", pcs=above)]
    decisions = select(score_table(rows), NO_PAIRS, faithful(rho=1))
    assert reasons(decisions) == {"at": "low_pcs", "above": "kept"}


@settings(max_examples=25, deadline=None)
@given(rows=sets, seed=st.integers(0, 1000), by=st.sampled_from(["n_classes", "class"]))
def test_order_of_rows_and_pairs_does_not_matter(rows: list[dict], seed: int, by: str) -> None:
    rng = np.random.default_rng(seed)
    ids = [row["sample_id"] for row in rows]
    found = [(a, b, float(rng.choice([0.95, 0.97, 0.99]))) for a, b in itertools.pairwise(ids)]
    config = cleaned(group_by=by, rho=0.4, min_score={"method": "otsu"})
    one = select(score_table(rows), pairs(*found), config)
    two = select(
        score_table([rows[i] for i in rng.permutation(len(rows))]),
        pairs(*(found[i] for i in rng.permutation(len(found)))),
        config,
    )
    assert one.equals(two)


@pytest.mark.parametrize("by", ["n_classes", "class"])
def test_ties_go_to_the_smaller_id(by: str) -> None:
    rows = [score_row(name, 0.5) for name in "dbca"]
    assert kept(select(score_table(rows), NO_PAIRS, cleaned(rho=0.5, group_by=by))) == {"a", "b"}


# S4: one reason each, in order, and the counts add up


@settings(max_examples=25, deadline=None)
@given(rows=sets, rho=shares, by=st.sampled_from(["n_classes", "class"]))
def test_every_row_gets_one_known_reason(rows: list[dict], rho: float, by: str) -> None:
    selection = decide(score_table(rows), NO_PAIRS, cleaned(rho=rho, group_by=by, min_score=0.2))
    decisions = selection.decisions
    assert sorted(decisions["sample_id"]) == sorted(row["sample_id"] for row in rows)
    assert set(decisions["reason"]) <= {r.value for r in Reason}
    assert (decisions["kept"] == (decisions["reason"] == "kept")).all()
    assert sum(selection.counts.values()) == len(rows)
    assert decisions["score"].null_count() == 0
    DECISION.check(decisions.to_arrow().cast(DECISION.schema))


def test_reasons_in_the_order_of_the_gates() -> None:
    bad = {"h_orig": 2.0, "swap_class_id": 7}
    rows = [
        score_row("a-failed", None, None, reason="score_failed", detail="no image"),
        score_row("b-leak", 0.9, 0.0, **bad),
        score_row("c-entropy", 0.9, 0.0, **bad),
        score_row("d-pcs", 0.9, 0.05, swap_class_id=7),
        score_row("e-image", 0.9, 0.5, image_score=0.2, swap_class_id=7),
        score_row("f-swap", 0.9, 0.5, swap_class_id=7),
        score_row("g-double", 0.1, 0.5),
        score_row("h-floor", 0.2, 0.5),
        score_row("i-quota", 0.5, 0.5),
        score_row("j-kept", 0.8, 0.5),
    ]
    config = cleaned(max_entropy=1.5, image_score_tau=0.3, min_score=0.3, rho=0.5)
    near = pl.concat([pairs(("g-double", "j-kept", 0.99)), pairs(("b-leak", "t1", 0.98), other_set="davis")])
    decisions = select(score_table(rows), near, config)
    assert list(decisions["reason"]) == [
        "score_failed",
        "leaks_into_test",
        "high_entropy",
        "low_pcs",
        "low_image_score",
        "label_swap",
        "near_duplicate",
        "low_asf",
        "below_quota",
        "kept",
    ]
    by_id = {row["sample_id"]: row for row in decisions.to_dicts()}
    assert by_id["a-failed"]["detail"] == "no image"
    assert (by_id["b-leak"]["duplicate_of"], by_id["b-leak"]["detail"]) == ("t1", "in davis")
    assert by_id["d-pcs"]["score"] == pytest.approx(0.05)
    assert by_id["d-pcs"]["threshold"] == pytest.approx(0.1)
    assert by_id["g-double"]["duplicate_of"] == "j-kept"
    assert by_id["i-quota"]["threshold"] == pytest.approx(0.8)  # the worst score that stayed
    assert by_id["i-quota"]["detail"] == "rank 2 of 2 with number of classes 1; 1 stay (rho 0.5)"


def test_asf_ranks_only_what_passed_pcs() -> None:
    rows = [score_row("top", 0.99, 0.01), score_row("good", 0.6), score_row("fair", 0.5)]
    decisions = select(score_table(rows), NO_PAIRS, cleaned(rho=0.5))
    assert reasons(decisions) == {"top": "low_pcs", "good": "kept", "fair": "below_quota"}


def test_a_sample_in_two_shards_is_kept_once() -> None:
    rows = [
        score_row("x", 0.9, shard="shard-00001.parquet"),
        score_row("x", 0.9, shard="shard-00000.parquet"),
        score_row("y", 0.1, shard="shard-00001.parquet"),
    ]
    selection = decide(score_table(rows), NO_PAIRS, cleaned(rho=1))
    by_place = {(r["sample_id"], r["shard"]): r for r in selection.decisions.to_dicts()}
    assert by_place["x", "shard-00000.parquet"]["reason"] == "kept"
    copy = by_place["x", "shard-00001.parquet"]
    assert (copy["reason"], copy["duplicate_of"]) == ("duplicate_id", "x")
    assert "shard-00000.parquet" in copy["detail"]
    assert selection.counts == {"duplicate_id": 1, "kept": 2}


# Presets, gates at score time, odd input


def test_faithful_preset_switches_our_additions_off() -> None:
    rows = [score_row("a", 0.9, swap_class_id=3), score_row("b", 0.8)]
    near = pairs(("a", "b", 1.0))
    assert kept(select(score_table(rows), near, faithful(rho=1))) == {"a", "b"}
    assert reasons(select(score_table(rows), near, cleaned(rho=1))) == {"a": "label_swap", "b": "kept"}


def test_keys_beside_a_preset_win_and_unknown_keys_are_errors() -> None:
    assert SelectConfig(preset="starter", rho=0.3).rho == 0.3
    assert SelectConfig(preset="starter").pcs_tau is None
    again = SelectConfig.model_validate(SelectConfig(preset="starter", pcs_tau=0.2).model_dump(mode="json"))
    assert again == SelectConfig(preset="starter", pcs_tau=0.2)
    with pytest.raises(ValidationError, match="pcs_tua"):
        SelectConfig.model_validate({"pcs_tua": 0.2})


@pytest.mark.parametrize("reason", [None, "not_scored"])
def test_a_gate_below_the_gate_of_scoring_asks_to_score_again(reason: str | None) -> None:
    rows = [score_row("gated", None, 0.08, reason=reason), score_row("scored", 0.5, 0.3)]
    assert reasons(select(score_table(rows), NO_PAIRS, FAITHFUL)) == {"gated": "low_pcs", "scored": "kept"}
    with pytest.raises(SelectionError, match=r"e\.g\. gated.*from pcs 0\.3.*score again"):
        select(score_table(rows), NO_PAIRS, cleaned(pcs_tau=0.05))
    by_pcs = cleaned(pcs_tau=0.05, rank_by="pcs", rho=1)
    assert kept(select(score_table(rows), NO_PAIRS, by_pcs)) == {"gated", "scored"}


def test_missing_and_nan_scores_are_not_scored() -> None:
    rows = [score_row("none", 0.5, None), score_row("nan", 0.5, math.nan), score_row("good", 0.5)]
    assert reasons(select(score_table(rows), NO_PAIRS, cleaned(rho=1))) == {
        "none": "not_scored",
        "nan": "not_scored",
        "good": "kept",
    }


def test_nothing_in_nothing_out() -> None:
    for config in (FAITHFUL, SelectConfig(preset="starter"), cleaned(group_by="class")):
        assert select(score_table([]), NO_PAIRS, config).height == 0


def test_relabelling_classes_leaves_the_choice_alone() -> None:
    rows = random_rows(40, 3)
    swap = {1: 4, 2: 1, 3: 5, 4: 2, 5: 3}
    renamed = []
    for row in rows:
        classes = {swap[c["class_id"]]: c["iou"] for c in row["per_class"]}
        renamed.append(score_row(row["sample_id"], row["asf"], row["pcs"], classes=classes, shard=row["shard"]))
    for by in ("n_classes", "class"):
        config = cleaned(group_by=by, rho=0.3)
        assert kept(select(score_table(rows), NO_PAIRS, config)) == kept(select(score_table(renamed), NO_PAIRS, config))


# Thresholds by class


def test_a_threshold_of_each_class_spares_the_class_that_clip_knows_least() -> None:
    rows = [score_row(f"{c}{i:02d}", 0.5, c / 10 + i / 1000, classes={c: 0.5}) for c in (1, 3) for i in range(20)]
    gate = {"pcs_tau": None, "image_score_tau": {"method": "quantile", "keep": 0.75}, "rho": 1.0}
    for_all = kept(select(score_table(rows), NO_PAIRS, faithful(**gate)))
    assert Counter(i[0] for i in for_all) == {"1": 10, "3": 20}
    selection = decide(score_table(rows), NO_PAIRS, faithful(**gate, calibrate_by="class"))
    assert Counter(i[0] for i in kept(selection.decisions)) == {"1": 15, "3": 15}
    assert set(selection.thresholds) == {"image_score_tau of class 1", "image_score_tau of class 3"}
    dropped = selection.decisions.filter(~pl.col("kept"))
    assert set(dropped["reason"]) == {Reason.LOW_IMAGE_SCORE.value}
    assert (dropped["score"] <= dropped["threshold"]).all()


def test_a_sample_fails_a_threshold_of_each_class_only_if_it_fails_all_of_its_classes() -> None:
    rows = [score_row(f"{c}{i:02d}", 0.5, c / 10 + i / 1000, classes={c: 0.5}) for c in (1, 3) for i in range(20)]
    rows += [score_row("both", 0.5, 0.2, classes={1: 0.5, 3: 0.5}), score_row("none", 0.5, None)]
    gate = {"pcs_tau": None, "image_score_tau": {"method": "quantile", "keep": 0.5}, "rho": 1.0}
    decisions = select(score_table(rows), NO_PAIRS, faithful(**gate, calibrate_by="class"))
    assert "both" in kept(decisions)
    assert reasons(decisions)["none"] == Reason.NOT_SCORED.value


# Negatives


def unscored(sample_id: str, n_classes: int | None, reason: str = "no_classes") -> dict:
    row = score_row(sample_id, None, None, classes={}, reason=reason, detail="why")
    return {**row, "n_classes": n_classes}


@pytest.mark.parametrize("more", [{}, {"group_by": "class"}, {"preset": "starter"}, {"keep_fraction": 0.7}])
def test_negatives_stay_where_asked_for(more: dict) -> None:
    rows = [score_row(f"{i:04d}", 0.5 + i / 100, 0.5) for i in range(8)]
    rows += [unscored("negative", 0), unscored("unknown", None), unscored("broken", 0, "score_failed")]
    rows.append({**unscored("negative", 0), "shard": "shard-00001.parquet"})  # the same once more
    without = [row for row in rows if row["sample_id"] != "negative"]
    others = kept(select(score_table(without), NO_PAIRS, faithful(**more)))
    assert "negative" not in kept(select(score_table(rows), NO_PAIRS, faithful(**more)))
    decisions = select(score_table(rows), NO_PAIRS, faithful(**more, negatives="keep"))
    assert set(kept(decisions)) == {*others, "negative"}, "the others' shares do not change"
    extra = decisions.filter(~pl.col("sample_id").str.starts_with("0"))
    assert dict(extra.unique("sample_id", keep="first", maintain_order=True).select("sample_id", "reason").rows()) == {
        "broken": "score_failed",
        "negative": "kept",
        "unknown": "no_classes",
    }
    assert extra.filter(pl.col("sample_id") == "negative")["reason"].to_list() == ["kept", "duplicate_id"]
    DECISION.table(decisions.to_dicts())


def test_a_cut_that_cuts_nothing_says_so() -> None:
    """Half of the samples pass the gate and half are to be kept: rho is 1, and the ranking turns nothing away."""
    half = [score_row(f"{i:02d}", 0.1 * i, 0.5 if i < 5 else 0.05) for i in range(10)]
    selection = decide(score_table(half), NO_PAIRS, faithful())
    assert selection.rho == 1.0
    assert selection.counts == {"kept": 5, "low_pcs": 5}
    details = selection.decisions.filter("kept")["detail"].to_list()
    assert all(NO_CUT in detail for detail in details)
    more = [score_row(f"{i:02d}", 0.1 * i, 0.5) for i in range(10)]
    for config in (faithful(), faithful(rho=1.0)):  # there is a cut; none was asked for
        assert not decide(score_table(more), NO_PAIRS, config).decisions["detail"].str.contains(NO_CUT).any()


def test_mended_threshold_is_read_off_the_scores() -> None:
    assert SelectConfig(preset="mended").pcs_tau == Calibrated(method="mixture", max_rejected=0.5)
    rng = np.random.default_rng(0)
    low, high = rng.normal(0.005, 0.002, 40), rng.normal(0.04, 0.005, 80)
    rows = [score_row(f"{i:03d}", 0.5, float(pcs)) for i, pcs in enumerate([*low, *high])]
    assert decide(score_table(rows), NO_PAIRS, SelectConfig(preset="mended", rho=1.0)).counts["kept"] in range(76, 84)
    assert decide(score_table(rows), NO_PAIRS, faithful(rho=1.0)).counts == {"low_pcs": 120}
