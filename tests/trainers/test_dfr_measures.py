"""Measures of `dfr`: borders of predictions, and AUC of affinities at true borders."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskmill.data_contracts import IGNORE
from maskmill.trainers.dfr import Config
from maskmill.trainers.dfr import measures as dfr
from maskmill.vision.segmenters import IMAGENET

torch.set_num_threads(1)


def test_boundary_f_is_a_mean_over_the_classes_that_are_there() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[20:60, 20:60], mask[70:90, 70:90] = 1, 2
    assert dfr.boundary_f(mask, mask, (1, 2, 3)) == 1.0
    without = np.where(mask == 2, 0, mask).astype(np.uint8)
    assert dfr.boundary_f(without, mask, (1, 2, 3)) == pytest.approx(0.5)
    wrong = mask.copy()
    wrong[5:15, 5:15] = 3
    assert dfr.boundary_f(wrong, mask, (1, 2, 3)) == pytest.approx(2 / 3)
    unsure = mask.copy()
    unsure[:18, :18] = IGNORE
    assert dfr.boundary_f(wrong, unsure, (1, 2, 3)) == 1.0
    assert np.isnan(dfr.boundary_f(mask * 0, mask * 0, (1, 2)))


def test_auc_counts_pairs_and_half_of_the_ties() -> None:
    rng = np.random.default_rng(0)
    higher, lower = (rng.integers(0, 6, n).astype(np.float32) for n in (40, 30))
    by_hand = np.mean([(h > low) + 0.5 * (h == low) for h in higher for low in lower])
    assert dfr.auc(higher, lower) == pytest.approx(by_hand)
    assert np.isnan(dfr.auc(higher, lower[:0]))


def test_border_pairs_lie_among_cells_that_see_another_class() -> None:
    labels = torch.zeros(1, 7, 9, dtype=torch.long)
    labels[:, :, 5:] = 1
    labels[:, 6] = IGNORE
    same, different = dfr.border_pairs(labels, 1)
    ends: set[tuple[int, int]] = set()
    for position, (dy, dx) in enumerate([(0, 1), (1, -1), (1, 0), (1, 1)]):
        for y, x in torch.nonzero(same[0, position]).tolist():
            ends |= {(y, x), (y + dy, x + dx)}
    assert ends == {(y, x) for y in range(6) for x in (4, 5)}, "cells on both sides of the border alone"
    assert int(different.sum()) == 6 + 2 * 5
    assert int(same.sum()) == 2 * 5


class Columns(nn.Module):
    """A head that knows the answer: the mean of the picture's right half is another than that of its left."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: list[Tensor], grid: tuple[int, int]) -> Tensor:
        found = torch.zeros(1, 2, *grid)
        found[..., grid[1] // 2 :] = 1
        return found * self.scale


class Nothing(nn.Module):
    def encoder(self, images: Tensor) -> list[Tensor]:
        return [images] * 5

    def decoder(self, features: Any) -> Tensor:
        return torch.as_tensor(features[0])

    def segmentation_head(self, x: Tensor) -> Tensor:
        return x


def test_affinities_are_judged_at_true_borders() -> None:
    config = Config.model_validate({"augment": {"size": 64, "fit": "squash"}, "pair_radius": 3})
    mask = np.zeros((50, 70), np.uint8)
    mask[:, 35:] = 1
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (50, 70, 3)).astype(np.uint8)
    found = dfr.affinity_aucs(config, IMAGENET, {"model": Nothing(), "head": Columns()}, grey, mask)
    assert found["affinity_auc"] == 1.0
    assert 0.3 < found["colour_auc"] < 0.8, "colours of noise say nothing; position a little"
    coloured = np.where(mask[..., None] == 1, 220, 20).repeat(3, axis=2).astype(np.uint8)
    told = dfr.affinity_aucs(config, IMAGENET, {"model": Nothing()}, coloured, mask)
    assert set(told) == {"colour_auc"}
    assert told["colour_auc"] > 0.99
    flat = dfr.affinity_aucs(config, IMAGENET, {"model": Nothing()}, coloured, mask * 0)
    assert np.isnan(flat["colour_auc"])
