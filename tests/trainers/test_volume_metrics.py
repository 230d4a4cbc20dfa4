"""Volume metrics against the published toy case, MONAI, hand counts and their own edge cases."""

import numpy as np
import pytest
import torch

from maskmill.data_contracts import IGNORE, LabelSpace
from maskmill.trainers.engine.volume_metrics import VolumeMetrics, border, compare, surface_distances

SPACE = LabelSpace.from_names(["a", "b"])


def toy() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """A square, and the same square with a stray blob."""
    target = np.zeros((32, 32), bool)
    target[15:30, 15:30] = True
    predicted = target.copy()
    predicted[2:5, 2:5] = True
    return predicted, target


def test_toy_case_in_both_conventions() -> None:
    predicted, target = toy()
    medpy, monai = (compare(predicted, target, convention=name) for name in ("medpy", "monai"))
    assert medpy is not None
    assert monai is not None
    assert medpy.hd95 == pytest.approx(16.28, abs=0.005)
    assert medpy.asd == pytest.approx(2.124, abs=0.0005)
    assert monai.hd95 == pytest.approx(17.03, abs=0.005)
    assert monai.asd == pytest.approx(1.133, abs=0.0005)
    swapped = compare(target, predicted, convention="medpy")
    assert swapped is not None
    assert swapped.asd == 0.0, "MedPy's ASD looks one way only"


@pytest.mark.parametrize("spacing", [None, (5.0, 1.5, 0.8)])
def test_equals_monai(spacing: tuple[float, float, float] | None) -> None:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    rng = np.random.default_rng(0)
    masks = [np.zeros((6, 20, 18), bool) for _ in range(2)]
    for mask in masks:
        z, y, x = rng.integers(0, 2), rng.integers(1, 6), rng.integers(1, 6)
        mask[z : z + 4, y : y + 9, x : x + 8] = True
        mask &= rng.random(mask.shape) < 0.97
    found = compare(masks[0], masks[1], spacing)
    assert found is not None
    a, b = (torch.from_numpy(m)[None, None].float() for m in masks)
    hd = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    asd = compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing)
    assert found.hd95 == pytest.approx(float(hd), rel=1e-5)
    assert found.asd == pytest.approx(float(asd), rel=1e-5)


def test_distances_are_millimetres_along_each_axis() -> None:
    a, b = np.zeros((5, 5, 5), bool), np.zeros((5, 5, 5), bool)
    a[1, 2, 2] = b[3, 2, 2] = True
    assert [float(d[0]) for d in surface_distances(a, b, (8.0, 1.0, 1.0))] == [16.0, 16.0]
    assert [float(d[0]) for d in surface_distances(a, b)] == [2.0, 2.0]


def test_border_is_the_mask_without_its_inside() -> None:
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    assert border(mask).sum() == 8
    assert border(np.ones((3, 3), bool)).sum() == 8, "beyond the array everything is outside"


def test_overlap_by_hand_and_means_over_volumes_then_classes() -> None:
    metrics = VolumeMetrics(SPACE)
    target = np.zeros((1, 4, 4), np.uint8)
    target[0, :2] = 1
    predicted = np.zeros_like(target)
    predicted[0, 0] = 1
    metrics.update(predicted, target, (1.0, 1.0, 1.0))
    metrics.update(target, target, (1.0, 1.0, 1.0))
    found = metrics.compute()
    assert found["volumes"] == 2
    assert found["dice"] == pytest.approx((2 * 4 / 12 + 1) / 2)
    assert found["jaccard"] == pytest.approx((0.5 + 1) / 2)
    assert set(found["classes"]) == {"a"}, "a class in neither mask is not judged"
    assert found["hd95_mm"] > 0
    assert metrics.dice == pytest.approx([2 * 4 / 12, 1])


def test_empty_predictions_are_flagged_not_scored_perfect() -> None:
    metrics = VolumeMetrics(SPACE)
    target = np.zeros((2, 8, 8), np.uint8)
    target[:, 2:5, 2:5] = 1
    metrics.update(np.zeros_like(target), target)
    metrics.update(np.where(target == 1, 2, 0).astype(np.uint8), target)
    found = metrics.compute()
    assert found["hd95_voxels"] is None
    assert found["asd_voxels"] is None
    assert found["classes"]["a"]["missed"] == 1.0
    assert found["classes"]["b"]["invented"] == 1.0
    assert found["dice"] == 0.0
    assert metrics.dice == [0.0, 0.0]
    assert compare(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) is None


def test_ignored_voxels_count_nowhere_and_shapes_must_agree() -> None:
    target = np.zeros((1, 4, 4), np.uint8)
    target[0, 0] = 1
    target[0, 3] = IGNORE
    predicted = np.where(target == IGNORE, 1, target).astype(np.uint8)
    metrics = VolumeMetrics(SPACE)
    metrics.update(predicted, target)
    assert metrics.compute()["dice"] == 1.0
    with pytest.raises(ValueError, match="resize it"):
        metrics.update(predicted[:, :3], target)
