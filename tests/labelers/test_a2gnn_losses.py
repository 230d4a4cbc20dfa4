"""Losses and the consistency check of `a2gnn`, each against a plain loop."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.labelers.a2gnn.check import Pixels, likeness, make_pixels, remove_seeds
from maskmill.labelers.a2gnn.losses import (
    BoxTable,
    Points,
    gated_crf_loss,
    interpolation,
    multi_points,
    point_weights,
    seed_weights,
    similarity_loss,
)
from maskmill.trainers.affinity.pairs import colour_kernel
from tests.labelers.a2gnn_cases import options

torch.set_num_threads(1)


def table(*boxes: tuple[int, int, int, int, int, int]) -> BoxTable:
    """Boxes (image, channel, y0, x0, y1, x1)."""
    return BoxTable(torch.tensor([b[0] for b in boxes]), torch.tensor([b[1] for b in boxes]), [b[2:] for b in boxes])


def test_points_hit_every_row_and_column_once() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 9)
    boxes = table((0, 1, 1, 2, 6, 5), (1, 2, 0, 0, 1, 1), (1, 1, 2, 3, 8, 9))
    points = multi_points(logits, boxes)
    for i, (y0, x0, y1, x1) in enumerate(boxes.corners):
        own = points.box == i
        y, x = points.y[own], points.x[own]
        assert len(y) == (y1 - y0) + (x1 - x0), "h_b + w_b, repeats kept"
        assert set(y.tolist()) == set(range(y0, y1))
        assert set(x.tolist()) == set(range(x0, x1))
        plane = logits[boxes.image[i], boxes.channel[i]]
        for row in range(y0, y1):
            assert int(x[row - y0]) == x0 + int(np.argmax(plane[row, x0:x1].numpy()))
        for column in range(x0, x1):
            assert int(y[(y1 - y0) + column - x0]) == y0 + int(np.argmax(plane[y0:y1, column].numpy()))
    ties = multi_points(torch.zeros(1, 2, 4, 4), table((0, 1, 1, 1, 3, 4)))
    assert ties.x[:2].tolist() == [1, 1], "the first of equals"


def point_loss(logits: Tensor, boxes: BoxTable) -> Tensor:
    points = multi_points(logits.detach(), boxes)
    return -(point_weights(points, boxes, logits) * logits.log_softmax(1)).sum()


def test_point_loss_equals_a_loop_and_its_gradient_touches_only_points() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 6, 7, requires_grad=True)
    boxes = table((0, 1, 1, 1, 4, 6), (0, 2, 0, 0, 6, 3), (1, 1, 2, 2, 5, 5))
    found = point_loss(logits, boxes)
    points, expected = multi_points(logits.detach(), boxes), 0.0
    for image in (0, 1):
        of_image = boxes.image[points.box] == image
        terms = [
            -float(logits[image, :, y, x].log_softmax(0)[boxes.channel[b]])
            for b, y, x in zip(points.box[of_image], points.y[of_image], points.x[of_image], strict=True)
        ]
        expected += sum(terms) / len(terms)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    found.backward()
    touched = torch.zeros(2, 6, 7, dtype=torch.bool)
    touched[boxes.image[points.box], points.y, points.x] = True
    assert logits.grad is not None
    assert (logits.grad.abs().sum(1)[~touched] == 0).all()
    assert (logits.grad.abs().sum(1)[touched] > 0).all()


def test_point_loss_vanishes_once_every_row_and_column_has_a_sure_pixel() -> None:
    logits = torch.zeros(1, 2, 5, 5)
    logits[0, 0] = 20.0
    boxes = table((0, 1, 1, 1, 4, 4))
    assert float(point_loss(logits, boxes)) > 10
    for k in range(1, 4):
        logits[0, 1, k, k] = 60.0
    assert float(point_loss(logits, boxes)) < 1e-6, "a diagonal is enough"


def test_similarity_loss_equals_a_loop() -> None:
    torch.manual_seed(2)
    boxes = table((0, 1, 0, 0, 2, 2), (0, 1, 0, 0, 3, 1), (1, 1, 0, 0, 1, 1))
    points = multi_points(torch.randn(2, 2, 4, 4), boxes)
    features = torch.rand(len(points.box), 3)
    total = 0.0
    for image in (0, 1):
        spread, size = 0.0, 0
        for b in range(len(boxes)):
            if int(boxes.image[b]) == image:
                own = features[points.box == b]
                size += len(own) ** 2
                spread += sum(float(1 - torch.cosine_similarity(p, q, dim=0) + 1e-5) for p in own for q in own)
        total += spread / size
    assert float(similarity_loss(features, points, boxes, 2)) == pytest.approx(total, rel=1e-4)


def test_seed_loss_averages_background_and_foreground_apart_and_skips_empty_sets() -> None:
    logits = torch.randn(2, 3, 2, 4)
    seeds = torch.tensor([[[0, 0, 0, 1], [2, 255, 255, 0]], [[255] * 4, [0] * 4]])
    found = -(seed_weights(seeds, 3) * logits.log_softmax(1)).sum()
    expected = 0.0
    for image in (0, 1):
        for kind in (seeds[image] == 0, (seeds[image] > 0) & (seeds[image] < 255)):
            if kind.any():
                expected += float(F.cross_entropy(logits[image][:, kind].T, seeds[image][kind]))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(seed_weights(torch.full((1, 2, 2), 255), 3).sum()) == 0


def slow_crf(p: Tensor, rgb: Tensor, radius: int) -> Tensor:
    total = torch.zeros((), dtype=p.dtype)
    cells = [(y, x) for y in range(p.shape[1]) for x in range(p.shape[2])]
    for i in cells:
        for j in cells:
            if i != j and max(abs(i[0] - j[0]), abs(i[1] - j[1])) <= radius:
                colour = (rgb[:, i[0], i[1]] - rgb[:, j[0], j[1]]).square().sum()
                place = (i[0] - j[0]) ** 2 + (i[1] - j[1]) ** 2
                k = torch.exp(-0.5 * (place / 36 + colour / 0.01))
                total = total + k * (1 - (p[:, i[0], i[1]] * p[:, j[0], j[1]]).sum())
    return total / len(cells)


def test_gated_crf_equals_all_pairs_with_gradient() -> None:
    torch.manual_seed(3)
    rgb = torch.rand(3, 6, 6) / 6
    z = torch.randn(1, 3, 6, 6, requires_grad=True)
    other = z.detach().clone().requires_grad_()
    fast = gated_crf_loss(z.softmax(1), colour_kernel(rgb[None], 5), 5)
    slow = slow_crf(other.softmax(1)[0], rgb, 5)
    assert float(fast) == pytest.approx(float(slow), rel=1e-5)
    assert float(fast) > 0
    fast.backward()
    slow.backward()
    torch.testing.assert_close(z.grad, other.grad, atol=1e-6, rtol=1e-4)
    constant = torch.zeros(1, 3, 6, 6)
    constant[:, 1] = 1
    assert float(gated_crf_loss(constant, colour_kernel(rgb[None], 5), 5)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 8])
def test_sampling_at_points_equals_enlarging_everything(scale: int) -> None:
    values = torch.rand(1, 5, 3, 4)
    full = F.interpolate(values, scale_factor=scale, mode="bilinear", align_corners=False)[0]
    y, x = (v.flatten() for v in torch.meshgrid(torch.arange(3 * scale), torch.arange(4 * scale), indexing="ij"))
    cells, shares = interpolation(y, x, scale, (3, 4))
    found = (values[0].flatten(1)[:, cells] * shares).sum(2)
    torch.testing.assert_close(found, full.flatten(1), atol=1e-6, rtol=1e-5)


# --- the consistency check


def planted(check: str, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """40 right and 5 wrong seeds in a box; non-negative features. Returns seeds before, after, and the wrong ones."""
    torch.manual_seed(4)
    truth = torch.zeros(12, 12)
    truth[2:10, 2:7] = 1
    features = torch.rand(2, 12, 12) * 0.2
    features[0] += truth
    features[1] += 1 - truth
    seeds = torch.full((1, 12, 12), 255)
    seeds[0, truth > 0] = 1
    wrong = torch.zeros(12, 12, dtype=torch.bool)
    wrong[3:8, 8] = True
    seeds[0, wrong] = 1
    boxes = table((0, 1, 2, 2, 10, 10))
    logits = torch.stack([1 - truth, truth])[None]

    def sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return features[:, y, x].T

    after = seeds.clone()
    centre = None if check == "released" else features.flatten(1).mean(1)[None]
    config = options(check=check, check_threshold=threshold)
    remove_seeds(after, make_pixels(seeds, boxes), multi_points(logits, boxes), boxes, sample, centre, config)
    return seeds[0], after[0], wrong


@pytest.mark.parametrize(("check", "threshold"), [("centred", 0.0), ("quantile", 0.12)])
def test_working_checks_take_planted_seeds_and_leave_the_others(check: str, threshold: float) -> None:
    before, after, wrong = planted(check, threshold)
    right = (before == 1) & ~wrong
    assert (after[wrong] == 255).all()
    assert float((after[right] == 1).float().mean()) >= 0.95


def test_the_released_check_never_fires_on_non_negative_features() -> None:
    before, after, _ = planted("released", 0.0)
    assert torch.equal(before, after)


@pytest.mark.parametrize("check", ["centred", "quantile"])
def test_a_box_keeps_its_last_seeds(check: str) -> None:
    seeds = torch.full((1, 6, 6), 255)
    seeds[0, 2, 2] = 1
    boxes = table((0, 1, 1, 1, 5, 5))
    points = Points(torch.zeros(2, dtype=torch.long), torch.tensor([1, 4]), torch.tensor([4, 4]))
    features = torch.rand(3, 6, 6)
    features[:, 2, 2] = -features[:, 4, 4]

    def sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return features[:, y, x].T

    pixels = make_pixels(seeds, boxes)
    centre = torch.zeros(1, 3)
    assert float(likeness(pixels, points, boxes, sample, centre)) < 0
    given: dict[str, Any] = {"check": check, "check_threshold": 0.0 if check == "centred" else 1.0}
    remove_seeds(seeds, pixels, points, boxes, sample, centre, options(**given))
    assert int(seeds[0, 2, 2]) == 1


def test_a_seed_is_compared_with_the_mean_of_its_boxs_points_less_the_images() -> None:
    """Points (4, 0) and (0, 2), a seed (2, -1), the image's mean (1, 0): (1, -1) against (1, 1)."""
    boxes = table((0, 1, 0, 0, 3, 3))
    points = Points(torch.zeros(2, dtype=torch.long), torch.tensor([0, 0]), torch.tensor([0, 1]))
    features = torch.tensor([[4.0, 0.0], [0.0, 2.0], [2.0, -1.0]])  # by column
    pixels = Pixels(torch.tensor([0]), torch.tensor([0]), torch.tensor([2]))
    centre = torch.tensor([[1.0, 0.0]])
    found = likeness(pixels, points, boxes, lambda image, y, x: features[x], centre)
    assert float(found) == pytest.approx(0, abs=1e-6)


def test_points_that_look_alike_cost_a_hundred_thousandth() -> None:
    boxes = BoxTable(torch.tensor([0]), torch.tensor([1]), [(0, 0, 2, 2)])
    points = Points(torch.zeros(4, dtype=torch.long), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 0, 1]))
    alike = similarity_loss(torch.tensor([[3.0, 4.0]]).expand(4, 2), points, boxes, 1)
    assert float(alike) == pytest.approx(1e-5, rel=0.1)
