"""What the regulariser acts on, measured: borders of predictions, and what affinities say of pairs at true borders."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.trainers.dfr.config import Config
from maskmill.trainers.dfr.consistency import near_pairs
from maskmill.trainers.dfr.model import segment
from maskmill.trainers.engine import (
    Rgb,
    Samples,
    SegmentationMetrics,
    SegmentationPredictor,
    evaluating,
    fitted_size,
    normalise,
    resize_image,
    widened,
)
from maskmill.vision.scribbles import grid_labels
from maskmill.vision.video.metrics import boundary_accuracy
from maskmill.vision.windows import colour_kernel, feature_distances, half_offsets, partner_values

MULTIPLE = 32


def boundary_f(labels: Uint8Array, mask: Uint8Array, class_ids: Sequence[int]) -> float:
    """Mean over the classes of `class_ids` in either map of the F of their borders (DAVIS' measure: boundary pixels
    within 0.8 % of the diagonal), pixels of 255 in `mask` left out; NaN where there is no such class.
    """
    void = mask == IGNORE
    found = [
        boundary_accuracy(labels == class_id, mask == class_id, void)
        for class_id in class_ids
        if (mask == class_id).any() or ((labels == class_id) & ~void).any()
    ]
    return float(np.mean(found)) if found else float("nan")


def auc(higher: NDArray[np.float32], lower: NDArray[np.float32]) -> float:
    """Share of pairs of one of either in which the first is larger, ties by half; NaN where either is empty."""
    if not len(higher) or not len(lower):
        return float("nan")
    ordered = np.sort(lower)
    below, upto = (np.searchsorted(ordered, higher, side) for side in ("left", "right"))
    return float((below.astype(np.float64) + upto).mean() / (2 * len(lower)))


def border_pairs(labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Pairs within the window that are of one class, and of different ones, among cells that have a cell of another
    class in their window: pair stacks bool of int64 (N, h, w).
    """
    pairs = near_pairs(labels, radius, None)
    differs = pairs.different
    border = differs.any(dim=1)
    for position, (dy, dx) in enumerate(half_offsets(radius)):
        border |= torch.roll(differs[:, position], (dy, dx), dims=(1, 2))  # of second ends; none lies outside
    both = border.unsqueeze(1) & partner_values(border, radius, False)
    return (pairs.background | pairs.foreground) & both, differs & both


@torch.no_grad()
def affinity_aucs(
    config: Config, colours: tuple[Rgb, Rgb], modules: Mapping[str, nn.Module], image: Uint8Array, mask: Uint8Array
) -> dict[str, float]:
    """AUC of the kernel of colours and position (`colour_auc`) and, where `modules` hold a `head`, of the learned
    affinity (`affinity_auc`) on `border_pairs` of an image uint8 (H, W, 3) with its mask; NaN without such pairs.
    """
    sides = fitted_size(image.shape[0], image.shape[1], config.augment.fit, config.augment.size)
    height, width = (MULTIPLE * max(1, round(side / MULTIPLE)) for side in sides)
    pixels = normalise(resize_image(image, height, width), *colours)[None]
    grid = height // config.loss_stride, width // config.loss_stride
    same, different = border_pairs(
        grid_labels(torch.from_numpy(mask.astype(np.int64))[None], *grid), config.pair_radius
    )
    sigmas = (config.xy_sigma_cells, config.colour_sigma_normalised)
    weights = {"colour_auc": colour_kernel(F.adaptive_avg_pool2d(pixels, grid), config.pair_radius, *sigmas)}
    if "head" in modules:
        device = next(modules["head"].parameters()).device
        _, features = segment(modules["model"], pixels.to(device))
        embedding = modules["head"]([widened(f) for f in features], grid)
        weights["affinity_auc"] = -feature_distances(embedding, config.pair_radius).cpu()
    return {name: auc(weight[same].numpy(), weight[different].numpy()) for name, weight in weights.items()}


def measure(
    config: Config,
    colours: tuple[Rgb, Rgb],
    modules: Mapping[str, nn.Module],
    predictor: SegmentationPredictor,
    samples: Samples,
) -> dict[str, Any]:
    """mIoU and its kin over `samples` with masks; `boundary_f` and the AUC of affinities, means over images."""
    truth, confusion = samples.with_masks(), SegmentationMetrics(predictor.space)
    ids = [c.id for c in predictor.space.classes]
    each: dict[str, list[float]] = {}
    with ExitStack() as still:
        for module in modules.values():
            still.enter_context(evaluating(module))
        for place in range(len(truth)):
            example = truth.example(place)
            if example.mask is None:
                continue
            (labels,) = predictor.labels([example.image])
            confusion.update(labels, example.mask)
            found = affinity_aucs(config, colours, modules, example.image, example.mask)
            for name, value in {"boundary_f": boundary_f(labels, example.mask, ids), **found}.items():
                each.setdefault(name, []).append(value)
    means = {name: float(np.nanmean(values)) for name, values in each.items() if not np.isnan(values).all()}
    return {**confusion.compute(), **means}
