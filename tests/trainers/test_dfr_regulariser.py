"""The regulariser of `dfr` by hand: every option reaches what it names, and padding counts for nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE
from maskmill.trainers.dfr import Config
from maskmill.trainers.dfr.consistency import draw_labelled, long_pair_loss, near_pairs, pair_loss, smoothness
from maskmill.trainers.dfr.kernel import KernelRule
from maskmill.trainers.dfr.train import Grid, Regulariser
from maskmill.vision.windows import colour_kernel, feature_distances, l1_energy, potts_energy

torch.set_num_threads(1)

RADIUS = 2
WIDTHS = {"radius": RADIUS, "pair_radius": RADIUS, "xy_sigma_cells": 3.0, "colour_sigma_normalised": 0.8}


def scene() -> tuple[Grid, Tensor]:
    """Two images of 6x6 cells with strokes of three classes, one of them in a padded row, and an embedding."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((2, 6, 6), IGNORE)
    labels[:, 1, 1:5], labels[:, 3, 0:3], labels[:, 5, 2:6] = 0, 1, 2
    valid = torch.ones(2, 6, 6, dtype=torch.bool)
    valid[:, 5] = False
    grid = Grid(torch.randn(2, 3, 6, 6, generator=generator), labels, valid)
    return grid, torch.randn(2, 4, 6, 6, generator=generator)


def consistency(**changes: Any) -> float:
    grid, embedding = scene()
    regulariser = Regulariser(Config.model_validate({**WIDTHS, "long_pairs": 0, **changes}), 0)
    torch.manual_seed(7)
    pairs = regulariser.pairs(grid, embedding)
    return float(regulariser.consistency(embedding, grid, pairs, grid.labels)[0])


def by_hand(smooth: float, long_pairs: int) -> float:
    grid, embedding = scene()
    targets = grid.labels.masked_fill(~grid.valid, IGNORE)
    distances = feature_distances(embedding, RADIUS)
    colour = colour_kernel(grid.image, RADIUS, 3.0, 0.8)
    loss = pair_loss(distances, near_pairs(targets, RADIUS, 0)) + smooth * smoothness(
        distances, colour, grid.valid, RADIUS
    )
    torch.manual_seed(7)
    return float(loss + long_pair_loss(embedding, targets, long_pairs, 0) if long_pairs else loss)


@pytest.mark.parametrize(("smooth", "long_pairs"), [(0.0, 0), (2.5, 0), (0.0, 6), (3.0, 6)])
def test_near_pairs_smoothness_and_long_pairs_without_padding(smooth: float, long_pairs: int) -> None:
    found = consistency(smooth_weight=smooth, long_pairs=long_pairs)
    assert found == pytest.approx(by_hand(smooth, long_pairs), rel=1e-6)


@pytest.mark.parametrize("other", [1, 3])
def test_the_regulariser_s_window_is_not_the_head_s(other: int) -> None:
    """A window of its own, narrower or wider, changes nothing for the head."""
    assert consistency(smooth_weight=2.5, radius=other) == pytest.approx(by_hand(2.5, 0), rel=1e-6)


def test_each_part_of_the_head_s_loss_is_there() -> None:
    plain = by_hand(0.0, 0)
    assert by_hand(2.5, 0) > plain + 0.01
    assert by_hand(0.0, 6) > plain + 0.01


def test_every_option_reaches_the_kernel() -> None:
    options = {
        **{"kernel": "sum", "radius": 3, "xy_sigma_cells": 2.5, "colour_sigma_normalised": 0.3, "gamma": 1.5},
        **{"static_share": 0.2, "deep_share": 0.7, "mass_normalised": True, "detach_kernel": False},
    }
    rule = Regulariser(Config.model_validate(options), 0).kernel
    assert rule == KernelRule("sum", 3, 2.5, 0.3, 1.5, 0.2, 0.7, mass_normalised=True, detach=False)


@pytest.mark.parametrize(("energy", "function"), [("potts", potts_energy), ("l1", l1_energy)])
def test_the_energy_is_divided_by_the_cells_that_count(energy: str, function: Any) -> None:
    grid, embedding = scene()
    config = Config.model_validate({**WIDTHS, "energy": energy, "gamma": 0.7})
    regulariser = Regulariser(config, 0)
    p = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3)).softmax(dim=1)
    pairs = regulariser.pairs(grid, embedding)
    found, mass = regulariser.smooth_labels(p, grid, pairs)
    colour, distances = pairs.within(RADIUS)
    kernel = regulariser.kernel(colour, distances, grid.valid)
    assert float(found) == pytest.approx(float(function(p, kernel, RADIUS, torch.tensor(60.0))), rel=1e-6)
    assert float(mass) == pytest.approx(2 * float(kernel.sum()) / 60, rel=1e-6)


def test_two_pixels_are_enough_for_a_long_pair() -> None:
    labels = torch.tensor([0, IGNORE, 1, 1])
    assert len(draw_labelled(labels, 2)) == 2
    assert not len(draw_labelled(labels, 1))
    assert not len(draw_labelled(torch.full((4,), IGNORE), 8))


def test_a_ramp_that_ends_before_it_begins_is_a_step() -> None:
    config = Config(steps=100, reg_delay=0.2, reg_ramp=0.1, reg_weight=0.4)
    assert [config.reg_at(step) for step in (0, 19, 20, 99)] == [0, 0, 0.4, 0.4]
