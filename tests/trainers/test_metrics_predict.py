"""Metrics against hand counts; prediction over sizes, scales, mirrors and windows."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskmill.data_contracts import IGNORE
from maskmill.trainers.engine import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PredictConfig,
    SegmentationMetrics,
    SegmentationPredictor,
    evaluating,
)
from tests.trainers.shapes import SPACE


def test_metrics_equal_hand_counts_and_leave_ignored_pixels_out() -> None:
    rng = np.random.default_rng(0)
    metrics = SegmentationMetrics(SPACE)
    pairs = [(rng.integers(0, 3, (9, 7)), rng.choice([0, 1, 2, IGNORE], (9, 7))) for _ in range(3)]
    for predicted, target in pairs:
        metrics.update(predicted.astype(np.uint8), target.astype(np.uint8))
    found = metrics.compute()
    p = np.concatenate([a.ravel() for a, _ in pairs])
    t = np.concatenate([b.ravel() for _, b in pairs])
    p, t = p[t != IGNORE], t[t != IGNORE]
    iou = [((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum() for c in range(3)]
    dice = [2 * ((p == c) & (t == c)).sum() / ((p == c).sum() + (t == c).sum()) for c in range(3)]
    assert found["miou"] == pytest.approx(np.mean(iou))
    assert found["dice"] == pytest.approx(np.mean(dice))
    assert found["pixel_accuracy"] == pytest.approx((p == t).mean())
    assert found["iou"]["background"] == pytest.approx(iou[0])
    assert "blue bar" not in found["iou"], "a class without target pixels has no IoU"
    assert found["images"] == 3


def test_metrics_edge_cases() -> None:
    metrics = SegmentationMetrics(SPACE)
    blank = np.full((4, 4), IGNORE, np.uint8)
    metrics.update(np.zeros((4, 4), np.uint8), blank)
    assert metrics.compute()["miou"] is None
    with pytest.raises(ValueError, match="resize it"):
        metrics.update(np.zeros((4, 5), np.uint8), blank)
    with pytest.raises(ValueError, match="fill it"):
        metrics.update(blank, np.zeros((4, 4), np.uint8))


class Pointwise(nn.Module):
    """Logits = the three channels and their mean: commutes with crops and mirrors."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.mean(1, keepdim=True)], 1)


class LeftRight(nn.Module):
    """Logits that grow to the right: does not commute with a mirror."""

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, x.shape[-1]).expand(x.shape[0], 4, *x.shape[-2:])
        return ramp.clone()


def predictor(model: nn.Module, **config: object) -> SegmentationPredictor:
    return SegmentationPredictor(model, SPACE, IMAGENET_MEAN, IMAGENET_STD, PredictConfig(**config))  # type: ignore[arg-type]


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((20, 31), (33, 17), (20, 31))]


def test_order_sizes_and_content() -> None:
    found = predictor(Pointwise()).predict(images())
    for image, prediction in zip(images(), found, strict=True):
        assert prediction.logits.shape == (4, *image.shape[:2])
        reference = (image / 255 - IMAGENET_MEAN) / IMAGENET_STD
        np.testing.assert_allclose(prediction.logits[:3], reference.transpose(2, 0, 1), atol=1e-5)
        np.testing.assert_allclose(prediction.probabilities.sum(0), 1, atol=1e-5)


def test_windows_equal_the_whole_for_a_pointwise_network() -> None:
    whole = predictor(Pointwise()).predict(images())
    for overlap in (0.0, 0.5):
        tiled = predictor(Pointwise(), window=8, overlap=overlap).predict(images())
        for a, b in zip(whole, tiled, strict=True):
            np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)


def test_mirror_average_is_mirror_symmetric() -> None:
    (found,) = predictor(LeftRight(), flip=True, multiple=1).predict(images()[:1])
    np.testing.assert_allclose(found.logits, found.logits[..., ::-1], atol=1e-5)
    (plain,) = predictor(LeftRight(), multiple=1).predict(images()[:1])
    assert np.abs(plain.logits - plain.logits[..., ::-1]).max() > 0.5


def test_scales_keep_the_original_size() -> None:
    found = predictor(Pointwise(), scales=(0.5, 1.0, 2.0), fit="long", size=24).predict(images())
    assert [p.logits.shape[1:] for p in found] == [image.shape[:2] for image in images()]


def test_wrong_images_are_named() -> None:
    with pytest.raises(ValueError, match=r"image 1: expected uint8 \(H, W, 3\), found float64"):
        predictor(Pointwise()).predict([images()[0], np.zeros((4, 4, 3))])  # type: ignore[list-item]
    assert predictor(Pointwise()).predict([]) == []


def test_evaluating_gives_each_part_its_mode_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    model.train()
    model[0].eval()
    with evaluating(model):
        assert not model[1].training
        assert not torch.is_grad_enabled()
    assert model[1].training
    assert not model[0].training
