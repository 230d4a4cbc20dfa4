"""Thresholds read off the distribution of the scores. All answers depend on the values alone, not on their order."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maskmill.curation.select.config import Calibrated, Threshold

Float64 = NDArray[np.float64]

MIN_ROWS = 20  # fewer scores than this have no distribution to speak of
BINS = 256
EM_STEPS = 200
# least spread of a component, in spreads of all scores: a spike (masks with no overlap at all) is no population
EM_FLOOR = 0.3
VALLEY = 0.9  # two heaps only if the density between them falls to this share of the lower heap's
EM_ROWS = 20_000  # a mixture is fitted to at most as many, taken evenly from the sorted scores


def resolve(threshold: Threshold, scores: ArrayLike) -> float | None:
    """The number that `threshold` stands for, given `scores` (any float array), as a float32; None = no threshold."""
    if threshold is None:
        return None
    if isinstance(threshold, float):
        return float(np.float32(threshold))
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if threshold.method == "quantile":
        return _below_best(values, threshold.keep)
    if len(values) < MIN_ROWS or values[0] == values[-1]:
        return None
    cut = _otsu(values) if threshold.method == "otsu" else _mixture(values)
    limit = _below_best(values, 1 - threshold.max_rejected)
    if cut is None or limit is None:
        return None
    return float(np.float32(min(cut, limit)))


def calibrated_on(threshold: Threshold) -> str:
    """How a threshold came about, for the detail of a decision."""
    return f" ({threshold.method})" if isinstance(threshold, Calibrated) else ""


def _below_best(values: Float64, share: float) -> float | None:
    """Largest float32 below the best ceil(share * n) of the sorted `values`, so that `>` and `>=` both keep these; ties
    stay.
    """
    rejected = len(values) - int(np.ceil(round(share * len(values), 9)))
    if rejected == 0:
        return None
    if rejected == len(values):
        return float("inf")
    return float(np.nextafter(np.float32(values[rejected]), np.float32(-np.inf)))


def _otsu(values: Float64) -> float:
    """N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979, on 256 equal bins."""
    counts, edges = np.histogram(values, bins=BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = len(values) - below
    sums = np.cumsum(counts * centres)
    spread = below * above * (sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)) ** 2
    # Empty bins between two heaps all score the same: cut in the middle of them.
    best = np.flatnonzero(spread >= spread.max() * (1 - 1e-12))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def _mixture(values: Float64) -> float | None:
    """Cut of a two-normal mixture (EM from Otsu's split), or None if one normal explains the values as well.

    "As well": BIC of the mixture not lower, or Ashman's D = sqrt(2) |m1 - m2| / sqrt(s1^2 + s2^2) not above 2 (Ashman
    et al. 1994, "Detecting bimodality in astronomical datasets").
    """
    if len(values) > EM_ROWS:
        values = values[np.linspace(0, len(values) - 1, EM_ROWS).astype(np.int64)]
    floor = max(values.std() * EM_FLOOR, 1e-6)
    upper = values > _otsu(values)
    weight = np.array([1 - upper.mean(), upper.mean()])
    mean = np.array([values[~upper].mean(), values[upper].mean()])
    spread = np.maximum([values[~upper].std(), values[upper].std()], floor)
    for _ in range(EM_STEPS):
        share = _posterior(values, weight, mean, spread)
        total = np.maximum(share.sum(axis=1), 1e-9)
        weight, before = total / len(values), mean
        mean = (share @ values) / total
        spread = np.maximum(np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1) / total), floor)
        if np.abs(mean - before).max() < 1e-9:
            break
    single = _log_density(values, np.ones(1), values.mean(keepdims=True), values.std(keepdims=True))
    both = _log_density(values, weight, mean, spread)
    bic_gain = 2 * (np.logaddexp.reduce(both).sum() - single.sum()) - 3 * np.log(len(values))
    distance = np.sqrt(2) * abs(mean[1] - mean[0]) / np.sqrt((spread**2).sum())
    if bic_gain <= 0 or distance <= 2:
        return None
    low, high = sorted(mean)
    grid = np.linspace(low, high, 1025)
    upper_share = _posterior(grid, weight, mean, spread)[int(mean[1] > mean[0])]
    cut = int(np.argmax(upper_share >= 0.5))
    density = np.logaddexp.reduce(_log_density(grid, weight, mean, spread))
    # One skewed heap is described well by two normals, too, but there is no valley between them.
    valley = density.min() <= min(density[0], density[-1]) + np.log(VALLEY)
    return float(grid[cut]) if valley else None


def _log_density(values: Float64, weight: Float64, mean: Float64, spread: Float64) -> Float64:
    """Log of weight * normal density, (components, N)."""
    scaled = (values - mean[:, None]) / spread[:, None]
    out: Float64 = np.log(weight / spread)[:, None] - scaled**2 / 2 - np.log(2 * np.pi) / 2
    return out


def _posterior(values: Float64, weight: Float64, mean: Float64, spread: Float64) -> Float64:
    joint = _log_density(values, weight, mean, spread)
    out: Float64 = np.exp(joint - np.logaddexp.reduce(joint))
    return out
