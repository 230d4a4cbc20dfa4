"""Thresholds relative to what is typical of a sample's class and clip.

One threshold for all turns away the classes that CLIP knows least: their scores are lower as a whole, faults or not. So
a sample is held against the samples of its own kind. Scores must start at 0 = chance, as SDS' do (shuffling changes
nothing; borders and overlap no better than chance): then a share of the typical score means the same for every class.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from maskmill.curation.select.config import Calibrated

PRIOR = (
    4  # a class (a clip) of n samples has n / (n + PRIOR) of a say in what is typical of it; the rest is everybody's
)
LEAST = 0.01  # of what is typical of all: no class, no clip counts as lower
MIN_ROWS = 20  # fewer scores than this have no spread to speak of
HIGHEST = 0.65  # share of the typical score that sound samples may miss however close together the others lie
ROUNDS = 20


@dataclass(frozen=True)
class Typical:
    """`cuts`: (row, cut float32, typical float32) of every row that has the score; a sample must reach its cut.
    `share`: what part of the typical score a cut is. `by_class`: class id -> the cut of a sample of that class in no
    clip.
    """

    cuts: pl.DataFrame
    share: float
    by_class: dict[int, float]


def typical_cuts(rows: pl.DataFrame, column: str, asked: Calibrated) -> Typical | None:
    """Cuts for the scores in `column` of `rows` (row, label_ids, `column`, perhaps clip); None where nothing can be
    compared: no scores, or none above chance.
    """
    scored = rows.filter(pl.col(column).is_not_null()).with_columns(value=pl.col(column).cast(pl.Float64))
    if scored.is_empty() or (common := location(scored["value"].to_numpy(), asked.share)) <= 0:
        return None
    by_class = _by_class(scored, asked.share, common)
    typical = _of_rows(scored, by_class, common)
    if "clip" in scored.columns:
        typical = _in_clips(scored, typical, asked.share)
    share = _share(scored["value"].to_numpy() / typical, asked)
    cuts = scored.select("row", cut=pl.Series(share * typical), typical=pl.Series(typical))
    table = cuts.with_columns(pl.col("cut", "typical").cast(pl.Float32))
    return Typical(table, share, {c: float(np.float32(share * value)) for c, value in by_class.items()})


def relative(scored: pl.DataFrame, column: str, share: float) -> NDArray[np.float64] | None:
    """Scores of rows (row, label_ids, `column` without nulls), each over what is typical of its classes; None where
    none is above chance.
    """
    values = scored.with_columns(value=pl.col(column).cast(pl.Float64))
    if values.is_empty() or (common := location(values["value"].to_numpy(), share)) <= 0:
        return None
    return np.asarray(values["value"].to_numpy() / _of_rows(values, _by_class(values, share, common), common))


def location(values: NDArray[np.float64], share: float) -> float:
    """Median of the values that reach `share` of it: faults below do not pull it down while they are the fewer."""
    middle = float(np.median(values))
    for _ in range(ROUNDS):
        again = float(np.median(values[values >= share * middle]))
        if again == middle:
            break
        middle = again
    return middle


def shrunk(values: NDArray[np.float64], share: float, towards: float) -> float:
    """Geometric mean of the values' location and `towards`, weighted n to PRIOR."""
    own = max(location(values, share), LEAST * towards)
    return float(np.exp((len(values) * np.log(own) + PRIOR * np.log(towards)) / (len(values) + PRIOR)))


def _by_class(scored: pl.DataFrame, share: float, common: float) -> dict[int, float]:
    each = scored.select("value", "label_ids").explode("label_ids").drop_nulls()
    groups = each.group_by("label_ids").agg("value").sort("label_ids")
    return {int(c): shrunk(np.asarray(v), share, common) for c, v in groups.iter_rows()}


def _of_rows(scored: pl.DataFrame, by_class: dict[int, float], common: float) -> NDArray[np.float64]:
    """What is typical of each row: the geometric mean over its classes."""
    logs = pl.DataFrame(
        {"label_ids": list(by_class), "log": [float(np.log(v)) for v in by_class.values()]},
        schema={"label_ids": pl.Int32, "log": pl.Float64},
    )
    each = scored.select("row", pl.col("label_ids").cast(pl.List(pl.Int32))).explode("label_ids")
    means = each.join(logs, on="label_ids", how="left", maintain_order="left").group_by("row").agg(pl.col("log").mean())
    found = scored.select("row").join(means, on="row", how="left", maintain_order="left")["log"]
    return np.asarray(np.exp(found.fill_null(float(np.log(common))).to_numpy()))


def _in_clips(scored: pl.DataFrame, typical: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The same, with a factor for every clip: where the frames of a clip lie, by their classes."""
    ratios = pl.Series("ratio", scored["value"].to_numpy() / typical)
    frames = scored.select("clip", ratios, at=pl.int_range(pl.len())).filter(pl.col("clip").is_not_null())
    out = typical.copy()
    for _, found, at in frames.group_by("clip", maintain_order=True).agg("ratio", "at").iter_rows():
        out[at] *= shrunk(np.asarray(found), share, 1.0)
    return out


def _share(ratios: NDArray[np.float64], asked: Calibrated) -> float:
    """The asked share, or more where the scores of sound samples lie close together: their spread is read off the upper
    half, which faults do not reach.
    """
    if asked.spreads is None or len(ratios) < MIN_ROWS:
        return asked.share
    sound = ratios[ratios >= 0.5]
    middle = float(np.median(sound)) if len(sound) else 1.0
    spread = 1.4826 * float(np.median(sound[sound >= middle] - middle)) if len(sound) else 1.0
    return max(asked.share, min(HIGHEST, middle - asked.spreads * spread))
