"""Figures and alarms by exact values: axes, ticks, bars, sliders, and the numbers at which an alarm is raised."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from maskmill.data_contracts import LabelSpace, Reason
from maskmill.pipelines.core.ledger import Ledger, Rejection, ShardLedger
from maskmill.pipelines.report import alarms, figures, scores
from maskmill.pipelines.report.figures import Threshold

SPACE = LabelSpace.from_names(["cat", "dog"])
NONE: list[Threshold] = []


def cut(low: float, high: float | None = None) -> Threshold:
    return Threshold("low_asf", low, low if high is None else high)


# figures


def test_an_axis_covers_nearly_all_values_and_every_threshold() -> None:
    values = np.linspace(0.4, 0.8, 401)
    assert figures.axis(values, NONE) == pytest.approx((0.401, 0.799))
    assert figures.axis(values, [cut(0.3, 0.9)]) == pytest.approx((0.3, 0.9))
    assert figures.axis(values, [cut(0.2, 0.8)]) == pytest.approx((0.2, 0.8))  # a quarter is not less than a quarter
    assert figures.axis(np.linspace(0.1, 0.8, 401), NONE)[0] == 0.0  # begins near zero: from zero on
    assert figures.axis(np.linspace(-0.1, 0.8, 401), NONE)[0] < 0
    assert figures.axis(np.full(3, 0.5), NONE) == (0.0, 1.0)
    assert figures.axis(np.array([0.4, 0.8, np.nan, np.inf]), [cut(float("inf"))]) == pytest.approx((0.401, 0.799))


def test_a_histogram_shows_the_thresholds_that_have_both_ends() -> None:
    kept, rejected = np.array([0.6, 0.7]), np.array([0.1, np.nan])
    open_ends = [cut(0.2, float("inf")), cut(float("-inf"), 0.3), cut(float("nan"))]
    found = figures.histogram(kept, rejected, [cut(0.5), *open_ends])
    assert re.findall(r'class="cut-label"[^>]*>([^<]*)', found) == ["0.5"]
    assert figures.histogram(np.array([np.nan]), np.array([]), [cut(0.5)]) == ""


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 0.5, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (0.0, 1.2, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (-1.0, 4.0, [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]),
        (0.05, 0.19, [0.05, 0.1, 0.15]),
    ],
)
def test_ticks_are_round(low: float, high: float, found: list[float]) -> None:
    assert figures.ticks(low, high) == pytest.approx(found)


def test_bars_stand_on_each_other_in_their_places() -> None:
    assert (figures.WIDTH, figures.HEIGHT) == (340, 170)
    assert (figures.LEFT, figures.RIGHT, figures.TOP, figures.BOTTOM) == (34, 10, 22, 26)
    parts = figures._bars(np.array([2, 0]), np.array([2, 4]), 4)
    boxes = [tuple(float(v) for v in re.findall(r'(?:x|y|width|height)="([\d.]+)"', part)) for part in parts]
    assert boxes == [(34.5, 83.0, 147.0, 61.0), (34.5, 22.0, 147.0, 61.0), (182.5, 22.0, 147.0, 122.0)]
    assert [re.findall(r"<title>(.*)</title>", p)[0] for p in parts] == ["2 kept", "2 rejected", "4 rejected"]
    assert figures._x(0.5, 0.0, 1.0) == 34 + 148


def test_a_histogram_counts_outliers_in_its_last_bars_and_marks_its_cuts() -> None:
    svg = figures.histogram(np.array([0.5, 0.6, np.nan]), np.array([0.55]), [cut(0.52), cut(float("inf"))], bins=4)
    assert svg.count("bar-kept") == 2
    assert svg.count('class="cut"') == 1
    assert figures.histogram(np.array([np.nan]), np.empty(0), NONE) == ""


def test_thresholds_are_one_number_or_a_range() -> None:
    assert cut(0.5).label == cut(0.5, 0.50004).label == "0.5"
    assert cut(0.5, 0.5001).label == "0.5 to 0.5"
    assert cut(0.1, 0.25).label == "0.1 to 0.25"
    assert 'class="cut"' in figures._cut(cut(0.5), 0.0, 1.0)
    band = figures._cut(cut(0.25, 0.75), 0.0, 1.0)
    assert 'class="band" x="108.0" y="22" width="148.0" height="122"' in band
    assert 'x="182.0" y="13" text-anchor="middle"' in band
    assert 'text-anchor="start"' in figures._cut(cut(0.05), 0.0, 1.0)
    assert 'text-anchor="end"' in figures._cut(cut(0.95), 0.0, 1.0)


# sliders


def test_a_slider_counts_as_selection_does() -> None:
    known = pl.Series([0.1, 0.2, 0.2, None, 0.3], dtype=pl.Float32)
    limits = np.array([0.0, 0.2, 0.25, 0.3, 1.0])
    assert scores._passing(known, limits, "image_score") == [5, 2, 2, 1, 1]  # strictly above; without one it passes
    assert scores._passing(known, limits, "asf") == [5, 4, 2, 2, 1]  # at least
    assert scores._passing(known, limits, "h_orig") == [1, 2, 4, 4, 5]  # strictly below


def test_steps_are_rounded_to_what_is_printed() -> None:
    assert scores.STEPS == 200
    assert scores._round(np.array([0.1234567, 0.1334567])).tolist() == [0.123, 0.133]
    assert scores._round(np.array([-0.0001, 10.0])).tolist() == [0.0, 10.0]
    assert str(scores._round(np.array([-0.0001, 10.0]))[0]) == "0.0"
    assert scores._round(np.array([5.0, 5.0])).tolist() == [5.0, 5.0]


def decided(*rows: tuple[str, float | None, float | None, float | None]) -> pl.DataFrame:
    """Rows (reason, pcs, image score, asf); what decided is the asf, held against 0.5."""
    columns: dict[str, Any] = {
        "reason": [r[0] for r in rows],
        "kept": [r[0] == "kept" for r in rows],
        "h_orig": [None] * len(rows),
        "pcs": [r[1] for r in rows],
        "image_score": [r[2] for r in rows],
        "asf": [r[3] for r in rows],
        "ignore_fraction": [None] * len(rows),
        "score": [None if r[0] == "kept" else r[3] for r in rows],
        "threshold": [None if r[0] == "kept" else 0.5 for r in rows],
    }
    names = ("h_orig", "pcs", "image_score", "asf", "ignore_fraction", "score", "threshold")
    floats = dict.fromkeys(names, pl.Float32)
    return pl.DataFrame(columns, schema_overrides=floats)


def test_a_threshold_belongs_to_the_score_that_decided() -> None:
    rows = decided(("kept", 0.1, 0.2, 0.9), ("low_asf", 0.3, 0.4, 0.2), ("low_asf", 0.3, 0.4, 0.1))
    assert scores.thresholds(rows) == {"asf": [Threshold("low_asf", 0.5, 0.5)]}
    near = rows.with_columns(score=pl.col("score") * 1.0001)
    assert "asf" in scores.thresholds(near)
    far = rows.with_columns(score=pl.col("score") * 1.01)
    assert scores.thresholds(far) == {}


def test_images_that_are_ranked_by_pcs_have_one_figure() -> None:
    same = decided(("kept", 0.1, 0.1, 0.9), ("kept", 0.2, 0.2, 0.8))
    assert scores.same_scores(same)
    assert [f.column for f in scores.score_figures(same)] == ["image_score", "asf"]
    assert not scores.same_scores(decided(("kept", 0.1, 0.2, 0.9)))
    none = decided(("kept", None, None, 0.9), ("low_asf", None, None, 0.1))
    assert not scores.same_scores(none)
    (figure,) = scores.score_figures(none)
    assert figure.column == "asf"
    assert figure.slider is not None
    values = figure.slider["values"]
    assert values[figure.slider["start"]] == pytest.approx(0.5, abs=0.01)
    assert (figure.slider["kept"], figure.slider["turned_away"], figure.slider["total"]) == (1, 1, 2)
    assert (figure.slider["left"], figure.slider["right"]) == (34 / 340, 10 / 340)


# alarms


def ledger(kept: int, classes_in: dict[int, int], classes_kept: dict[int, int], **rejected: int) -> Ledger:
    rejections = tuple(Rejection(stage="select", reason=r, rows=n) for r, n in rejected.items())
    rows = kept + sum(rejected.values())
    shard = ShardLedger(shard="s", rows_in=rows, ingested=rows, kept=kept, undecided=0, rejections=rejections)
    return Ledger(shards=(shard,), classes_in=classes_in, classes_kept=classes_kept, licences=[])


@pytest.mark.parametrize(
    ("kept", "rejected", "kinds"),
    [
        (2, {"low_asf": 3}, ["one_reason"]),
        (3, {"low_asf": 3}, ["only_reason"]),  # half is not more than half
        (1, {"low_asf": 2}, []),  # too few to be a sign
        (27, {"low_asf": 3}, ["only_reason"]),  # a tenth
        (28, {"low_asf": 3}, []),
        (20, {"low_asf": 3, "low_pcs": 1}, []),
        (0, {"low_asf": 3, "low_pcs": 3}, []),
    ],
)
def test_one_reason_is_a_sign_from_three_on(kept: int, rejected: dict[str, int], kinds: list[str]) -> None:
    assert [alarm.kind for alarm in alarms._one_reason(ledger(kept, {}, {}, **rejected))] == kinds


def test_nothing_kept_names_the_key_of_the_commonest_reason() -> None:
    (alarm,) = alarms._nothing_kept(ledger(0, {}, {}, low_pcs=2, low_asf=5))
    assert alarm.message.startswith("nothing was kept: 0 of 7")
    assert "min_score" in alarm.turn
    assert not list(alarms._nothing_kept(ledger(1, {}, {}, low_pcs=2)))


def table(*rows: tuple[int, float, bool]) -> pl.DataFrame:
    """Rows (class, score, kept)."""
    columns = {
        "class_ids": [[r[0]] for r in rows],
        "image_score": [r[1] for r in rows],
        "asf": [None] * len(rows),
        "kept": [r[2] for r in rows],
        "reason": ["kept" if r[2] else Reason.LOW_ASF.value for r in rows],
    }
    return pl.DataFrame(columns, schema_overrides={"asf": pl.Float64})


def test_a_class_of_which_three_came_in_and_none_stayed_is_lost() -> None:
    class Rows:
        rows = table(*[(1, 0.5, True)] * 4, *[(2, 0.5, False)] * 3)

    found = list(alarms._lost_classes(ledger(4, {1: 4, 2: 3}, {1: 4}), Rows(), SPACE))  # type: ignore[arg-type]
    assert len(found) == 1
    assert found[0].message.startswith("class dog is lost whole: 3 samples, 3 as ")
    assert not list(alarms._lost_classes(ledger(4, {1: 4, 2: 2}, {1: 4}), Rows(), SPACE))  # type: ignore[arg-type]


def test_a_class_apart_lies_below_nine_tenths_of_the_others() -> None:
    high = [(1, 0.9 + i / 100, True) for i in range(10)]
    low = [(2, 0.1 + i / 100, True) for i in range(8)]
    (alarm,) = alarms._apart(table(*high, *low), SPACE)
    assert alarm.message.startswith("image scores of class dog lie apart, below 100% of the others")
    assert not list(alarms._apart(table(*high, *low[:7]), SPACE))
    mixed = [(2, 0.1, True)] * 6 + [(2, 2.0, True)] * 2
    assert not list(alarms._apart(table(*high, *mixed), SPACE))


def test_pairs_are_counted_and_ties_by_half() -> None:
    assert alarms._below(np.array([1.0, 3.0]), np.array([4.0, 2.0, 3.0, 3.0])) == (4 + 1 + 2 / 2) / 8
    assert (alarms.FEW, alarms.SCORED, alarms.APART, alarms.SHOWN) == (3, 8, 0.9, 8)


@pytest.mark.parametrize(
    ("photos", "share", "alarmed"), [(3, 0.05, True), (2, 0.05, False), (3, 0.1, False), (3, 0.0999, True)]
)
def test_three_photos_in_which_nothing_fits_are_a_sign(
    tmp_path: Path, photos: int, share: float, alarmed: bool
) -> None:
    (tmp_path / alarms.FIT).write_text(json.dumps({"photos": photos, "share": share, "classes": ["cat"]}))
    assert [alarm.kind for alarm in alarms._misfit(str(tmp_path))] == (["misfit"] if alarmed else [])


def test_thresholds_of_strata_are_a_range_and_the_number_must_be_the_scores() -> None:
    rows = decided(("low_asf", 0.3, 0.4, 0.2), ("low_asf", 0.3, 0.4, 0.1)).with_columns(
        threshold=pl.Series([0.6, 0.5], dtype=pl.Float32)
    )
    (found,) = scores.thresholds(rows)["asf"]
    assert (found.low, found.high) == pytest.approx((0.5, 0.6))
    off = rows.with_columns(score=pl.Series([0.2003, 0.1], dtype=pl.Float32))  # by more than a ten-thousandth of it
    assert scores.thresholds(off) == {}


def test_a_figure_tells_kept_from_rejected_and_a_slider_begins_where_nothing_is_lost() -> None:
    rows = decided(*[("kept", 0.1, 0.2, 0.9)] * 3, ("low_asf", 0.3, 0.4, 0.2)).with_columns(
        h_orig=pl.Series([0.1, 0.2, 0.3, 0.4], dtype=pl.Float32)
    )
    figure = {one.column: one for one in scores.score_figures(rows)}
    assert sorted(re.findall(r"<title>(.*?)</title>", figure["asf"].svg)) == ["1 rejected", "3 kept"]
    entropy, images = figure["h_orig"].slider, figure["image_score"].slider
    assert entropy is not None
    assert images is not None
    assert (entropy["start"], images["start"]) == (scores.STEPS, 0)
    assert entropy["stay"][-1] == images["total"] - 1 == 3


def test_of_lost_classes_the_largest_is_told_first() -> None:
    class Rows:
        rows = table(*[(1, 0.5, False)] * 3, *[(2, 0.5, False)] * 5)

    found = list(alarms._lost_classes(ledger(0, {1: 3, 2: 5}, {}), Rows(), SPACE))  # type: ignore[arg-type]
    assert [one.message.split(" is lost")[0] for one in found] == ["class dog", "class cat"]
