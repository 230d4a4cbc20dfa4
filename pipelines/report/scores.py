"""Histograms of the scores, and what a slider on each says: how many samples would stay with another threshold."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from maskmill.data_contracts import Reason
from maskmill.pipelines.report.figures import LEFT, RIGHT, WIDTH, FloatArray, Threshold, axis, histogram
from maskmill.pipelines.report.words import SCORES

STEPS = 200  # places of a slider
HIGHEST = frozenset({"h_orig", "ignore_fraction"})  # scores of which lower ones are better
KEYS = {"image_score": "image_score_tau", "pcs": "pcs_tau", "h_orig": "max_entropy", "asf": "min_score"}
SIDES = {"image_score": "above", "pcs": "above", "h_orig": "below", "asf": "at least"}  # where samples stay
GATES = {
    "image_score": (Reason.LOW_IMAGE_SCORE, Reason.LOW_PCS),
    "pcs": (Reason.LOW_PCS,),
    "h_orig": (Reason.HIGH_ENTROPY,),
    "asf": (Reason.LOW_ASF,),
}


@dataclass(frozen=True)
class ScoreFigure:
    """One histogram; `slider` is what its slider needs (see `_slider`), None where no threshold cuts it."""

    column: str
    title: str
    words: str
    svg: str
    thresholds: list[Threshold]
    slider: dict[str, Any] | None


def score_figures(rows: pl.DataFrame) -> list[ScoreFigure]:
    """Histograms of all scores that were taken, each with the thresholds that selection held against it."""
    cuts = thresholds(rows)
    faithful = same_scores(rows)
    figures = []
    for column, (title, words) in SCORES.items():
        if rows[column].null_count() == rows.height or (column == "pcs" and faithful):
            continue
        if column not in KEYS and rows[column].drop_nulls().n_unique() < 2:
            continue  # one bar that decides nothing
        kept, rejected = (_values(rows.filter(pl.col("kept") == k), column) for k in (True, False))
        found = cuts.get(column, [])
        svg = histogram(kept, rejected, found)
        slider = _slider(rows, column, faithful, found) if column in KEYS and svg else None
        said = f"{SCORES['pcs'][1]} (It is the PCS here.)" if faithful and column == "image_score" else words
        figures.append(ScoreFigure(column, title, said, svg, found, slider))
    return figures


def same_scores(rows: pl.DataFrame) -> bool:
    """Whether images are ranked by PCS itself, as published."""
    return rows["pcs"].null_count() < rows.height and rows["pcs"].equals(rows["image_score"])


def _values(rows: pl.DataFrame, column: str) -> FloatArray:
    return rows[column].drop_nulls().cast(pl.Float64).to_numpy()


def thresholds(rows: pl.DataFrame) -> dict[str, list[Threshold]]:
    """Thresholds by score column. A decision does not name its column: it is the one that holds the deciding number."""
    found: dict[str, list[Threshold]] = defaultdict(list)
    cut = rows.filter(pl.col("threshold").is_not_null() & pl.col("score").is_not_null())
    for (reason,), part in cut.group_by("reason", maintain_order=True):
        for column in SCORES:
            pairs = part.select("score", column).drop_nulls()
            if pairs.height * 2 > part.height and bool(
                ((pairs["score"] - pairs[column]).abs() <= 1e-5 + 1e-4 * pairs[column].abs()).mean() == 1.0
            ):
                edges = part["threshold"].to_numpy()
                found[column].append(Threshold(str(reason), float(np.min(edges)), float(np.max(edges))))
                break
    return {column: sorted(cuts, key=lambda t: t.low) for column, cuts in found.items()}


def _slider(rows: pl.DataFrame, column: str, faithful: bool, cuts: list[Threshold]) -> dict[str, Any]:
    """`values`: the thresholds that the slider stands for; of the `kept` and the `turned_away` (by this gate alone)
    `stay` and `back` say how many pass each. A sample without the score passes. `left`, `right`: where the axis ends,
    shares of the width.
    """
    gates = [reason.value for reason in GATES[column]]
    kept = rows.filter("kept")[column]
    away = rows.filter(pl.col("reason").is_in(gates))[column]
    low, high = axis(_values(rows, column), cuts)
    values = _round(np.linspace(low, high, STEPS + 1))
    own = [min(max(t.low, low), high) for t in cuts if t.reason in gates]
    return {
        "key": f"select.{'pcs_tau' if faithful and column == 'image_score' else KEYS[column]}",
        "values": values.tolist(),
        "start": int(np.argmin(np.abs(values - (own[0] if own else (high if column in HIGHEST else low))))),
        "stay": _passing(kept, values, column),
        "back": _passing(away, values, column),
        "kept": kept.len(),
        "turned_away": away.len(),
        "total": rows.height,
        "side": SIDES[column],
        "left": LEFT / WIDTH,
        "right": RIGHT / WIDTH,
    }


def _round(values: FloatArray) -> FloatArray:
    """To as many digits as a step of the slider has: what is printed is what is counted."""
    step = max(float(values[1] - values[0]), 1e-12)
    rounded: FloatArray = np.round(values, max(0, int(np.ceil(-np.log10(step))) + 1))
    return rounded + 0.0  # no -0.0


def _passing(scores: pl.Series, values: FloatArray, column: str) -> list[int]:
    """How many of the scores pass each threshold, compared as selection does: in float32."""
    known = np.sort(scores.drop_nulls().drop_nans().cast(pl.Float32).to_numpy())
    limits = values.astype(np.float32)
    unknown = scores.len() - len(known)
    below: NDArray[np.int64] = np.searchsorted(known, limits, side="right" if SIDES[column] == "above" else "left")
    passing = below if column in HIGHEST else len(known) - below
    return [int(n) + unknown for n in passing]
