"""A linear head on frozen features, fitted in closed form to sums: ridge regression of class shares.

Sums add up over samples, so a shard teaches what it has to teach once, and the head of a fold is fitted to all sums but
the fold's own. W = (Σ v x xᵀ + λ m I)⁻¹ Σ x (b y)ᵀ over cells x with class shares y; b weights a class of an image by
its area, v = Σ b y, m is the mean of the diagonal. (Hoerl and Kennard, "Ridge Regression", 1970; cross-fitting as in
Chernozhukov et al., "Double/debiased machine learning", 2018.)
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskmill.curation.cross_fit.features import Features

Float64 = NDArray[np.float64]
WEIGHT_STEPS = 4  # of a class weight
LARGEST_WEIGHT = 16.0


@dataclass(frozen=True)
class Sums:
    """What cells add up to, in whole numbers. `gram` (D, D), `cross` (D, C); `samples` (C,) that show each class."""

    gram: Float64
    cross: Float64
    samples: Float64

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.cross + other.cross, self.samples + other.samples)

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.gram - other.gram, self.cross - other.cross, self.samples - other.samples)


def nothing(width: int, classes: int) -> Sums:
    """Sums of no sample."""
    return Sums(np.zeros((width, width)), np.zeros((width, classes)), np.zeros(classes))


def class_weights(shares: Features, balance: float) -> Float64:
    """Weight of each class of one image, (C,), in quarters from 1/4 to 16: (mean area / own area)^balance."""
    areas = shares.sum(axis=0, dtype=np.float64)
    there = areas > 0
    mean = areas[there].mean() if there.any() else 1.0
    weights = np.where(there, (mean / np.where(there, areas, 1.0)) ** balance, 1.0)
    return np.round(np.clip(weights, 1 / WEIGHT_STEPS, LARGEST_WEIGHT) * WEIGHT_STEPS) / WEIGHT_STEPS


def sums_of(features: Features, shares: Features, shown: Float64, balance: float) -> Sums:
    """What one sample teaches. `features` (P, D), `shares` (P, C) in sixteenths; rows without a share are left out;
    `shown` (C,) is 1 for classes of its mask.
    """
    weights = class_weights(shares, balance) * WEIGHT_STEPS
    told = shares.any(axis=1)
    x = features[told].astype(np.float64)
    wanted = shares[told].astype(np.float64) * weights
    return Sums(x.T @ (x * wanted.sum(axis=1, keepdims=True)), x.T @ wanted, shown)


def solve(sums: Sums, ridge: float) -> Float64:
    """The head, (D, C): features @ head is the share of each class that is expected of a cell. Zeros where the sums are
    of no sample.
    """
    scale = float(np.trace(sums.gram)) / len(sums.gram)
    if scale == 0:
        return np.zeros_like(sums.cross)
    penalty = np.full(len(sums.gram), ridge * scale)
    penalty[-1] = 0  # the constant
    return np.asarray(np.linalg.solve(sums.gram + np.diag(penalty), sums.cross), dtype=np.float64)


def total(parts: Iterable[Sums], width: int, classes: int) -> Sums:
    """All of them together."""
    found = nothing(width, classes)
    for part in parts:
        found = found + part
    return found


def triangle(gram: Float64) -> Float64:
    """The upper half of a symmetric matrix, flat."""
    half: Float64 = gram[np.triu_indices(len(gram))]
    return half


def square(flat: Float64, width: int) -> Float64:
    """The symmetric matrix of a `triangle`."""
    gram = np.zeros((width, width))
    gram[np.triu_indices(width)] = flat
    return gram + np.triu(gram, 1).T
