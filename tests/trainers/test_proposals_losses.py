"""Losses of the proposal network by hand: boxes, windows, scores, qualities, descriptors, and what they weigh."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, DataConfig, Samples
from maskmill.trainers.proposals.losses import descriptor_loss, mask_quality, proposal_losses, score_loss, window
from maskmill.trainers.proposals.train import Config, weighted
from maskmill.trainers.proposals.views import CropConfig, PairSource, _fit, _ids_of
from maskmill.vision.instances import Proposals, cell_centres
from tests.trainers import shapes

BOX = torch.tensor([4.0, 4.0, 28.0, 28.0])


def found(grow: float = 0.0) -> Proposals:
    """2 x 2 cells that all answer with the object's box (grown), a sure mask everywhere, and one feature."""
    centres = cell_centres(2, 2)
    reach = torch.cat([centres - BOX[:2], BOX[2:] - centres], dim=1) + grow
    reach = reach.T.reshape(1, 4, 2, 2).expand(2, 4, 2, 2)
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(2, 2, 2, 2)
    return Proposals(torch.zeros(2, 2, 2), reach, torch.ones(2, 1, 2, 2), torch.full((2, 1, 8, 8), 9.0), features)


def batch() -> dict[str, torch.Tensor]:
    objects = torch.zeros(2, 1, 8, 8)
    objects[:, :, 1:7, 1:7] = 1
    boxes, shown = BOX.expand(2, 1, 4), torch.ones(2, 1, dtype=torch.bool)
    return {"objects": objects, "boxes": boxes, "shown": shown, "judged": torch.ones(2, 8, 8)}


def test_a_box_that_fits_costs_nothing_and_another_what_it_misses() -> None:
    assert float(proposal_losses(found(), batch())["box"]) == pytest.approx(0, abs=1e-6)
    overlap = 24 * 24 / (28 * 28)
    assert float(proposal_losses(found(2.0), batch())["box"]) == pytest.approx(1 - overlap, abs=1e-5)


def test_a_mask_is_judged_inside_its_grown_box() -> None:
    seen = window(torch.tensor([[4.0, 4.0, 12.0, 12.0]]), (8, 8))[0]  # grown by 2 + 4: up to, and without, 18
    assert seen.sum() == 16
    assert (seen[:4, :4] == 1).all()


def test_pixels_that_are_not_judged_cost_nothing() -> None:
    half = batch()
    half["judged"][:, :, 4:] = 0
    wrong = {**half, "objects": half["objects"].clone()}
    wrong["objects"][..., 4:] = 1 - wrong["objects"][..., 4:]
    costs = [float(proposal_losses(found(), one)["mask"]) for one in (half, wrong)]
    assert np.isfinite(costs[0])
    assert costs[0] == costs[1]


def test_a_mask_is_what_is_above_zero() -> None:
    logits, truth = torch.full((1, 4, 4), 0.5), torch.ones(1, 4, 4)
    assert float(mask_quality(logits, truth, torch.ones(1, 4, 4))) == 1
    assert float(mask_quality(-logits, truth, torch.ones(1, 4, 4))) == 0


def test_scores_are_weighted_by_the_square_of_what_they_miss() -> None:
    loss = score_loss(torch.zeros(1, 1), torch.ones(1, 1), 1)
    assert float(loss) == pytest.approx(0.25 * math.log(2), rel=1e-5)
    logits = torch.zeros(1, 1, requires_grad=True)
    score_loss(logits, torch.ones(1, 1), 1).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad) == pytest.approx(0.25 * -0.5), "the weight is no part of what is learnt"


def test_descriptors_that_say_nothing_cost_the_choice_of_two() -> None:
    """One pair whose objects look like their surroundings: either direction is a coin."""
    small = batch() | {"boxes": torch.tensor([12.0, 12.0, 20.0, 20.0]).expand(2, 1, 4)}  # with surroundings
    assert float(descriptor_loss(found(), small)) == pytest.approx(math.log(2), rel=1e-4)


def test_what_each_loss_weighs() -> None:
    losses = {name: torch.tensor(value) for name, value in (("mask", 1.0), ("box", 10.0), ("score", 100.0))}
    losses["descriptor"] = torch.tensor(1000.0)
    assert float(weighted(losses, Config())) == pytest.approx(1 + 0.5 * 10 + 100 + 0.2 * 1000)
    config = Config(box_weight=2.0, score_weight=3.0, descriptor_weight=4.0)
    assert float(weighted(losses, config)) == pytest.approx(1 + 20 + 300 + 4000)


def test_pairs_are_frames_no_farther_apart_than_the_span(tmp_path: Path) -> None:
    folder = shapes.write_scenes(tmp_path / "clips", 6, group_size=6)
    samples = Samples.open(DataConfig(samples=(folder,)), str(tmp_path / "cache"))
    (clip,) = samples.groups.values()
    place = {samples.ids[position]: number for number, position in enumerate(clip)}
    source = PairSource(samples, CropConfig(side=32, span=1), IMAGENET_MEAN, IMAGENET_STD, 2, 0, 0)
    apart = []
    for step in range(8):
        ids = source(step)["sample_id"]
        apart += [abs(place[a] - place[b]) for a, b in zip(ids[::2], ids[1::2], strict=True)]
    assert set(apart) == {0, 1}


def test_every_id_but_background_and_void_is_an_object_of_16_pixels() -> None:
    mask = np.zeros((20, 20), np.uint8)
    for number, count in ((2, 16), (3, 15), (255, 100)):
        mask.flat[np.flatnonzero(mask == 0)[:count]] = number
    assert _ids_of(mask, 0) == [2]


def test_small_crops_are_enlarged_smoothly() -> None:
    enlarged = _fit(np.array([[0, 255], [0, 255]], np.uint8), 8)
    assert ((enlarged > 0) & (enlarged < 255)).any()
