"""Selection by exact values: presets as whole dictionaries, each threshold, order and constant."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from maskmill.curation.select import Calibrated, SelectConfig, SelectionError, calibrate, decide, select, typical
from maskmill.curation.select import company as companies
from maskmill.curation.select.calibrate import resolve
from tests.curation.score_tables import NO_PAIRS, cleaned, faithful, kept, pairs, reasons, score_row, score_table

FAITHFUL: dict[str, Any] = {
    "pcs_tau": 0.1,
    "max_entropy": None,
    "image_score_tau": None,
    "calibrate_by": "all",
    "strata": (),
    "min_score": None,
    "swap": "keep",
    "negatives": "drop",
    "near_duplicates": "keep",
    "duplicate_similarity": 0.96,
    "leaks": "drop",
    "leak_similarity": 0.96,
    "rank_by": "asf",
    "group_by": "n_classes",
    "rho": None,
    "keep_fraction": 0.5,
    "min_keep": 0,
    "max_per_class": None,
    "quotas": {},
}
CUT = {"share": 0.4, "spreads": None, "keep": 0.5, "max_rejected": 0.5}
OURS: dict[str, Any] = {
    "pcs_tau": None,
    "image_score_tau": {**CUT, "method": "typical", "share": 0.18},
    "min_score": {**CUT, "method": "typical", "share": 0.35, "spreads": 3.5},
    "rho": 1.0,
    "group_by": "class",
    "swap": "drop",
    "near_duplicates": "best",
}


def test_presets_are_what_the_card_says() -> None:
    assert SelectConfig(preset="faithful").model_dump() == {"preset": "faithful", **FAITHFUL}
    assert SelectConfig().model_dump() == {"preset": "starter", **FAITHFUL, **OURS}
    assert Calibrated(method="otsu").model_dump() == {"method": "otsu", **CUT}


@pytest.mark.parametrize(
    "wrong",
    [
        {"rho": 1.1},
        {"rho": -0.1},
        {"keep_fraction": 2},
        {"min_keep": -1},
        {"duplicate_similarity": 1.1},
        {"leak_similarity": -1.1},
        {"min_score": {"method": "typical", "spreads": 0}},
        {"group_by": "n_classes", "max_per_class": 0},
        {"group_by": "n_classes", "quotas": {1: 1}},
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SelectConfig.model_validate({"preset": "faithful", **wrong})
    assert SelectConfig(group_by="class", max_per_class=0, duplicate_similarity=-1.0).max_per_class == 0


# thresholds read off scores


def test_numbers_are_thresholds_as_scores_are_stored() -> None:
    assert resolve(0.1, []) == float(np.float32(0.1))
    assert resolve(None, [1.0]) is None


@pytest.mark.parametrize(("keep", "stay"), [(0.5, 5), (0.31, 4), (0.3, 3), (1.0, 10)])
def test_a_quantile_keeps_its_share_rounded_up(keep: float, stay: int) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(10) / 10).astype(np.float32)
    cut = resolve(Calibrated(method="quantile", keep=keep), scores)
    if stay == 10:
        assert cut is None
        return
    assert cut == float(np.nextafter(np.float32((10 - stay) / 10), np.float32(-1)))


def test_a_quantile_of_nothing_rejects_all() -> None:
    assert resolve(Calibrated(method="quantile", keep=0.0), [0.1, 0.2]) == float("inf")


def heaps(*parts: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(count, value) for value, count in parts])


def test_otsu_cuts_in_the_middle_of_the_gap() -> None:
    three = heaps((0.0, 20), (0.1, 20), (1.0, 20))
    edges = np.linspace(0, 1, 257)
    middle = float(np.float32((edges[26] + edges[255]) / 2))
    assert resolve(Calibrated(method="otsu", max_rejected=0.7), three) == middle
    below = float(np.nextafter(np.float32(0.1), np.float32(-1)))
    assert resolve(Calibrated(method="otsu", max_rejected=0.5), three) == below  # of ties all stay
    assert resolve(Calibrated(method="otsu", max_rejected=0.0), three) is None
    uneven = heaps((0.0, 2), (0.3, 30), (1.0, 28))
    assert 0.3 < float(calibrate._otsu(np.sort(uneven))) < 1.0


def test_fewer_than_twenty_scores_have_no_distribution() -> None:
    for method in ("otsu", "mixture"):
        asked = Calibrated(method=method)
        assert resolve(asked, heaps((0.1, 9), (0.9, 10))) is None
    assert resolve(Calibrated(method="otsu"), heaps((0.1, 9), (0.9, 11))) is not None


def quantiles(mean: float, spread: float, count: int) -> np.ndarray:
    """Evenly spaced quantiles of a normal distribution: a sample without chance."""
    return np.asarray(norm.ppf((np.arange(count) + 0.5) / count, mean, spread))


@pytest.mark.parametrize(
    ("low", "high", "cut"),
    [
        ((0.2, 0.03, 100), (0.7, 0.05, 300), 0.4407),
        ((0.2, 0.10, 200), (0.7, 0.05, 200), 0.4734),
        ((0.0, 1.0, 1000), (2.9, 1.0, 1000), 1.45),
        ((0.0, 1.0, 1000), (1.7, 1.0, 1000), None),
    ],
)
def test_a_mixture_cuts_where_the_upper_heap_takes_over(
    low: tuple[float, float, int], high: tuple[float, float, int], cut: float | None
) -> None:
    found = calibrate._mixture(np.sort(np.concatenate([quantiles(*low), quantiles(*high)])))
    assert found == (None if cut is None else pytest.approx(cut, abs=2e-3))


def test_one_skewed_heap_has_no_valley() -> None:
    assert calibrate._mixture(np.exp(quantiles(0.0, 0.7, 2000))) is None
    assert calibrate._mixture(quantiles(0.0, 1.0, 2000)) is None
    near = np.sort(np.concatenate([quantiles(0.0, 1.0, 500), quantiles(2.2, 1.0, 500)]))
    assert calibrate._mixture(near) is None  # two heaps by their distance, and hardly a dent between them


def test_two_heaps_must_say_more_than_one() -> None:
    """A few scores spread evenly are two normal distributions as well; the penalty keeps them one."""
    assert calibrate._mixture(np.linspace(0.0, 1.0, 24)) is None


def test_a_spike_is_no_population_by_itself() -> None:
    """Masks without any overlap score 0 alike; what spread they have is that of all scores, not none."""
    scores = np.sort(np.concatenate([np.zeros(60), quantiles(0.5, 0.15, 300)]))
    found = calibrate._mixture(scores)
    assert found == pytest.approx(0.1504, abs=2e-3)


# what is typical


def test_typical_constants() -> None:
    assert (typical.PRIOR, typical.LEAST, typical.MIN_ROWS, typical.HIGHEST) == (4, 0.01, 20, 0.65)
    assert (companies.NEAREST, companies.LEAD, companies.REFERENCES) == (3, 0.18, 2048)
    assert (calibrate.MIN_ROWS, calibrate.EM_FLOOR, calibrate.VALLEY) == (20, 0.3, 0.9)


def test_the_location_is_sought_again_and_again() -> None:
    values = np.array([0.0] * 9 + [0.3, 0.5, 1.0, 1.0, 1.0])  # the median is 0: all reach it
    assert typical.location(values, 0.5) == 0.0
    assert typical.location(np.array([0.4, 0.5, 0.6, 1.0, 1.1, 1.2, 1.3]), 0.4) == 1.0
    assert typical.location(np.array([0.1, 0.2, 0.3, 0.9, 1.0, 1.1]), 0.5) == 1.0  # 0.6, then 0.95, then 1.0
    assert typical.location(np.array([0.5, 1.0, 1.5]), 0.5) == 1.0  # what just reaches the share counts


def test_few_scores_are_drawn_to_those_of_all() -> None:
    own = np.full(12, 0.8)
    assert typical.shrunk(own, 0.4, 0.2) == pytest.approx(0.8 ** (12 / 16) * 0.2 ** (4 / 16))
    assert typical.shrunk(np.zeros(12), 0.4, 0.2) == pytest.approx(0.002 ** (12 / 16) * 0.2 ** (4 / 16))


def cuts(rows: list[dict[str, Any]], **asked: Any) -> typical.Typical:
    found = typical.typical_cuts(score_table(rows).with_row_index("row"), "asf", Calibrated(method="typical", **asked))
    assert found is not None
    return found


def test_a_sample_is_held_against_the_geometric_mean_of_its_classes() -> None:
    rows = [score_row(f"a{i:02d}", 0.4, classes={1: 0.4}) for i in range(12)]
    rows += [score_row(f"b{i:02d}", 0.9, classes={2: 0.9}) for i in range(12)]
    rows.append(score_row("both", 0.4, classes={1: 0.4, 2: 0.9}))
    found = cuts(rows, share=0.5)
    at = dict(found.cuts.select("row", "typical").iter_rows())
    assert at[24] == pytest.approx((at[0] * at[12]) ** 0.5, rel=1e-6)
    assert found.by_class[1] == pytest.approx(0.5 * at[0], rel=1e-6)
    assert found.cuts["cut"].to_list() == pytest.approx([0.5 * v for v in found.cuts["typical"]], rel=1e-6)


def test_spreads_are_read_off_the_upper_half() -> None:
    asked = Calibrated(method="typical", share=0.2, spreads=2.0)
    sound = np.concatenate([1 - np.arange(1, 11) / 50, [1.0], 1 + np.arange(1, 11) / 50])
    assert typical._share(sound, asked) == pytest.approx(min(0.65, 1 - 2 * 1.4826 * 0.1))
    wide = np.concatenate([1 - np.arange(1, 11) / 20, [1.0], 1 + np.arange(1, 11) / 20])
    assert typical._share(wide, asked) == pytest.approx(1 - 2 * 1.4826 * 0.25)
    faulty = np.concatenate([np.full(8, 0.499), wide])
    assert typical._share(faulty, asked) == pytest.approx(1 - 2 * 1.4826 * 0.25)
    assert typical._share(wide, Calibrated(method="typical", share=0.5, spreads=2.0)) == 0.5
    assert typical._share(sound[:19], asked) == 0.2
    assert typical._share(sound[:20], asked) > 0.2
    assert typical._share(sound, Calibrated(method="typical", share=0.2)) == 0.2
    at_half = np.concatenate([np.full(11, 0.5), np.full(10, 1.5)])  # half of what is typical still counts as sound
    assert typical._share(at_half, asked) == pytest.approx(max(0.2, 0.5 - 0.0))


def test_scores_of_chance_alone_are_compared_with_nothing() -> None:
    table = score_table([score_row(f"{i}", 0.0) for i in range(30)]).with_row_index("row")
    assert typical.typical_cuts(table, "asf", Calibrated(method="typical")) is None
    assert typical.typical_cuts(table.clear(), "asf", Calibrated(method="typical")) is None


# company


def test_speakers_are_taken_evenly_and_as_many_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companies, "REFERENCES", 15)
    classes = np.array([1] * 9 + [2] * 4 + [3] * 30, np.int32)
    found = companies._speakers(classes, np.array([1, 2, 3], np.int32))
    assert found.tolist() == [[0, 2, 4, 6, 8], [9, 10, 11, 12, -1], [13, 20, 27, 34, 42]]
    monkeypatch.setattr(companies, "REFERENCES", 3)
    assert companies._speakers(classes, np.array([3], np.int32)).shape == (1, 4)  # one more than speak at once


def test_a_class_of_three_neither_judges_nor_is_judged() -> None:
    vectors = np.eye(8, dtype=np.float32)[[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]]
    found = companies.company([f"{i:02d}" for i in range(11)], [1] * 4 + [2] * 4 + [3] * 3, vectors)
    assert found.height == 8
    assert set(found["rival_class_id"]) == {1, 2}


# gates


def test_a_score_at_its_gate() -> None:
    """Strictly above for images, at least for masks, strictly below for entropy."""
    rows = [
        score_row("at", 0.5, 0.5, h_orig=1.5),
        score_row("in", 0.6, 0.6, h_orig=1.25),
    ]
    table = score_table(rows)
    assert reasons(select(table, NO_PAIRS, cleaned(rho=1, max_entropy=1.5)))["at"] == "high_entropy"
    assert reasons(select(table, NO_PAIRS, cleaned(rho=1, image_score_tau=0.5)))["at"] == "low_image_score"
    assert kept(select(table, NO_PAIRS, cleaned(rho=1, min_score=0.5))) == {"at", "in"}
    assert decide(table, NO_PAIRS, cleaned(rho=1, max_entropy=1.5)).thresholds["max_entropy"] == 1.5


def test_a_leak_names_the_most_similar_test_sample_and_the_first_of_equals() -> None:
    near = pl.concat(
        [
            pairs(("a", "t3", 0.97), ("a", "t2", 0.99), ("a", "t1", 0.99), other_set="voc"),
            pairs(("a", "t9", 0.99), other_set="davis"),
            pairs(("b", "t1", 0.96), ("c", "t1", 0.95), other_set="voc"),
            pairs(("d", "c", 0.999)),
        ]
    )
    rows = [score_row(name, 0.5) for name in "abcd"]
    decisions = select(score_table(rows), near, faithful(rho=1))
    assert reasons(decisions) == {"a": "leaks_into_test", "b": "leaks_into_test", "c": "kept", "d": "kept"}
    verdict = decisions.row(0, named=True)
    assert (verdict["duplicate_of"], verdict["detail"]) == ("t9", "in davis")
    assert verdict["score"] == np.float32(0.99)
    assert verdict["threshold"] == np.float32(0.96)
    only_voc = select(score_table(rows), near.filter(pl.col("other_set") != "davis"), faithful(rho=1))
    assert only_voc.row(0, named=True)["duplicate_of"] == "t1"
    assert kept(select(score_table(rows), near, faithful(rho=1, leaks="keep"))) == set("abcd")


def test_company_is_lost_by_more_than_the_lead() -> None:
    said = pl.DataFrame(
        {"sample_id": ["at", "below"], "company": [0.0, 0.0], "rival": [0.18, 0.1801], "rival_class_id": [2, 2]},
        schema=companies.COMPANY,
    )
    table = score_table([score_row("at"), score_row("below")]).join(said, on="sample_id", how="left")
    decisions = select(table, NO_PAIRS, cleaned(rho=1))
    assert reasons(decisions) == {"at": "kept", "below": "label_swap"}
    assert decisions.filter(pl.col("sample_id") == "below")["threshold"].item() == np.float32(-0.18)


def test_a_gate_of_each_class_is_the_lowest_of_a_samples_classes() -> None:
    rows = [score_row(f"{c}{i:02d}", 0.5, c / 10 + i / 1000, classes={c: 0.5}) for c in (1, 3) for i in range(20)]
    rows.append(score_row("both", 0.5, 0.1, classes={1: 0.5, 3: 0.5}))
    rows.append(score_row("new", 0.5, 0.0001, classes={9: 0.5}))  # the only one of its class: no threshold of its own
    config = faithful(pcs_tau=None, image_score_tau={"method": "otsu"}, rho=1.0, calibrate_by="class")
    decisions = select(score_table(rows), NO_PAIRS, config)
    low = decisions.filter(pl.col("reason") == "low_image_score")
    held = dict(low.select("sample_id", "threshold").iter_rows())
    assert held["both"] == held["100"]
    assert "new" not in held
    assert (low["score"] <= low["threshold"]).all()


def test_at_a_class_threshold_a_sample_fails() -> None:
    rows = [score_row(f"{i:02d}", 0.5, i / 10, classes={1: 0.5}) for i in range(10)]
    config = faithful(pcs_tau=None, image_score_tau={"method": "quantile", "keep": 0.5}, calibrate_by="class", rho=1.0)
    assert kept(select(score_table(rows), NO_PAIRS, config)) == {f"{i:02d}" for i in range(5, 10)}


@pytest.mark.parametrize(
    ("more", "raises"),
    [
        ({"rho": 1.0}, False),  # all that pass stay: photos without masks may be among them
        ({"rho": 0.5}, True),
        ({"rho": 1.0, "min_score": 0.2}, True),
        ({"rho": 1.0, "min_score": {"method": "quantile"}}, False),
        ({"rho": 1.0, "group_by": "class", "quotas": {1: 3}}, True),
        ({"rho": 1.0, "group_by": "class", "max_per_class": 3}, True),
        ({"rho": 0.5, "rank_by": "pcs"}, False),
        ({"rho": 0.5, "rank_by": "pcs", "min_score": 0.2}, True),
        ({"rho": 0.5, "rank_by": "pcs", "group_by": "class"}, True),
    ],
)
def test_what_needs_an_overlap_says_so(more: dict[str, Any], raises: bool) -> None:
    rows = [score_row("masked", 0.5, 0.3), score_row("bare", None, 0.5, label_ids=[1])]
    config = faithful(pcs_tau=None, **more)
    if raises:
        with pytest.raises(SelectionError, match="1 samples pass"):
            select(score_table(rows), NO_PAIRS, config)
    else:
        assert "masked" in set(select(score_table(rows), NO_PAIRS, config)["sample_id"])


def test_samples_that_scoring_gated_lie_below_all_others() -> None:
    config = faithful(pcs_tau=None, rho=1.0)
    masked = score_row("masked", 0.5, 0.3)
    gated = [masked, score_row("bare", None, 0.2, label_ids=[1]), score_row("lower", None, 0.1, label_ids=[1])]
    with pytest.raises(SelectionError, match="2 samples pass"):
        select(score_table(gated), NO_PAIRS, config)
    for value in (0.3, 0.4):  # as high as what has a mask: these are photos without one
        rows = [masked, score_row("bare", None, value, label_ids=[1]), score_row("lower", None, 0.1, label_ids=[1])]
        assert kept(select(score_table(rows), NO_PAIRS, config)) == {"masked", "bare", "lower"}


# ranking


def test_ranks_shares_and_cuts() -> None:
    rows = [score_row(name, value) for name, value in zip("dcba", (0.2, 0.9, 0.5, 0.5), strict=True)]
    decisions = select(score_table(rows), NO_PAIRS, faithful(rho=0.5))
    by_id = {row["sample_id"]: row for row in decisions.to_dicts()}
    assert kept(decisions) == {"c", "a"}
    assert by_id["b"]["detail"] == "rank 3 of 4 with number of classes 1; 2 stay (rho 0.5)"
    assert by_id["b"]["threshold"] == np.float32(0.5)
    assert by_id["c"]["detail"].startswith("rank 1 of 4")


def test_by_class_the_iou_of_the_class_ranks_unless_another_score_is_asked_for() -> None:
    rows = [
        score_row("a", 0.9, 0.2, classes={1: 0.1}),
        score_row("b", 0.1, 0.3, classes={1: 0.8}),
        score_row("c", 0.5, 0.9, classes={1: 0.5}),
    ]
    by_class = {"group_by": "class", "quotas": {1: 1}, "rho": 1.0}
    assert kept(select(score_table(rows), NO_PAIRS, faithful(**by_class))) == {"b"}
    assert kept(select(score_table(rows), NO_PAIRS, faithful(**by_class, rank_by="pcs"))) == {"c"}


def test_shares_are_rounded_up_and_held_to_what_there_is() -> None:
    rows = [score_row(f"{i}", i / 10) for i in range(5)]

    def count(**options: Any) -> int:
        return len(kept(select(score_table(rows), NO_PAIRS, faithful(**options))))

    assert count(rho=0.41) == 3
    assert count(rho=0.4) == 2
    assert count(rho=0.0) == 0
    assert count(rho=0.0, min_keep=2) == 2
    assert count(rho=0.0, min_keep=9) == 5
    assert count(rho=0.8, group_by="class", max_per_class=2) == 2
    assert count(rho=0.2, group_by="class", max_per_class=2) == 1
    assert count(rho=0.2, group_by="class", quotas={1: 4, 2: 5}) == 4
    assert count(rho=0.2, group_by="class", quotas={1: 4}, max_per_class=3) == 3


def test_a_sample_of_no_scored_class_is_below_every_quota() -> None:
    rows = [score_row("a", 0.5), score_row("none", 0.5, classes={})]
    decisions = select(score_table(rows), NO_PAIRS, faithful(group_by="class", rho=1.0))
    assert kept(decisions) == {"a"}
    verdict = decisions.row(by_predicate=pl.col("sample_id") == "none", named=True)
    assert (verdict["reason"], verdict["detail"]) == ("below_quota", "scored for no class of its mask")


# near-duplicates


def test_of_two_alike_the_better_by_overlap_then_image_score_then_id_stays() -> None:
    def lost(*rows: dict[str, Any], similarity: float = 0.99) -> set[str]:
        near = pairs((rows[0]["sample_id"], rows[1]["sample_id"], similarity))
        decisions = select(score_table(list(rows)), near, cleaned(rho=1.0, pcs_tau=None))
        return {name for name, reason in reasons(decisions).items() if reason == "near_duplicate"}

    assert lost(score_row("a", 0.5, 0.9), score_row("b", 0.6, 0.1)) == {"a"}
    assert lost(score_row("a", 0.5, 0.1), score_row("b", 0.5, 0.9)) == {"a"}
    assert lost(score_row("a", 0.5, 0.5), score_row("b", 0.5, 0.5)) == {"b"}
    assert lost(score_row("a", None, 0.9), score_row("b", 0.1, 0.5)) == {"a"}  # without an overlap it is the worse
    assert lost(score_row("a", 0.5), score_row("b", 0.5), similarity=0.96) == {"b"}
    assert lost(score_row("a", 0.5), score_row("b", 0.5), similarity=0.959) == set()


def test_what_a_floor_turned_away_is_a_duplicate_of_the_most_similar_kept_sample() -> None:
    rows = [score_row(name, value) for name, value in zip("abcd", (0.9, 0.8, 0.7, 0.1), strict=True)]
    config = cleaned(rho=1.0, min_score=0.5)
    near = pairs(("a", "d", 0.97), ("b", "d", 0.99), ("c", "d", 0.99))
    decisions = select(score_table(rows), near, config)
    verdict = decisions.row(by_predicate=pl.col("sample_id") == "d", named=True)
    assert (verdict["reason"], verdict["duplicate_of"]) == ("near_duplicate", "b")
    assert verdict["score"] == np.float32(0.99)
    assert verdict["detail"] == "a kept sample shows the same"
    other = pairs(("a", "d", 0.99), other_set="voc")
    assert reasons(select(score_table(rows), other, cleaned(rho=1.0, min_score=0.5, leaks="keep")))["d"] == "low_asf"
