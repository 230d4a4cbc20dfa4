"""DAVIS measures of a tracked object: region similarity J, boundary accuracy F, their recall and decay.

Source: "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016; the 2017 protocol
averages over objects and leaves out the first and the last frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE
from maskmill.vision.video.masks import Binary

Curve = NDArray[np.float64]
BOUND = 0.008  # tolerance of a boundary, in image diagonals
BINS = 4
Void = Literal["background", "left_out"]


@dataclass(frozen=True)
class Summary:
    """Mean, recall (share of frames above 0.5) and decay (first quarter minus last) of one measure."""

    mean: float
    recall: float
    decay: float


def region_similarity(found: Binary, truth: Binary, void: Binary | None = None) -> float:
    """J: intersection over union of masks bool (H, W) outside void; 1 when both are empty."""
    if void is not None:
        found, truth = found & ~void, truth & ~void
    union = np.count_nonzero(found | truth)
    return float(np.count_nonzero(found & truth) / union) if union else 1.0


def boundary_accuracy(found: Binary, truth: Binary, void: Binary | None = None, bound: float = BOUND) -> float:
    """F: harmonic mean of precision and recall of boundary pixels within a disk of ceil(bound x diagonal) pixels."""
    if void is not None:
        found, truth = found & ~void, truth & ~void
    edges = boundary(found), boundary(truth)
    counts = [np.count_nonzero(edge) for edge in edges]
    if not counts[0] or not counts[1]:
        return float(counts[0] == counts[1])
    disk = _disk(int(np.ceil(bound * np.linalg.norm(found.shape))) if bound < 1 else int(bound))
    near = [
        cv2.dilate(edge.astype(np.uint8), disk, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0 for edge in edges
    ]
    precision = np.count_nonzero(edges[0] & near[1]) / counts[0]
    recall = np.count_nonzero(edges[1] & near[0]) / counts[1]
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary(mask: Binary) -> Binary:
    """Pixels that differ from their right, lower or lower right neighbour: a boundary one pixel wide."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edge: Binary = (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])
    edge[-1, -1] = False
    return edge


def _disk(radius: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk: NDArray[np.uint8] = (x * x + y * y <= radius * radius).astype(np.uint8)
    return disk


def summarise(values: Sequence[float] | Curve) -> Summary:
    """Mean, recall and decay of one object's values, first and last frame already left out.

    The four bins of the decay share their edge frames, as in the reference; any number of frames is allowed.
    """
    curve = np.asarray(values, np.float64)
    if not len(curve):
        return Summary(0.0, 0.0, 0.0)
    edges = np.round(np.linspace(1, len(curve), BINS + 1) + 1e-10).astype(int) - 1
    bins = [curve[edges[i] : edges[i + 1] + 1] for i in range(BINS)]
    return Summary(float(curve.mean()), float((curve > 0.5).mean()), float(bins[0].mean() - bins[-1].mean()))


@dataclass(frozen=True)
class ClipScore:
    """J and F of every object of one clip, frames 1..T-2."""

    j: Curve  # (objects, frames)
    f: Curve


def score_clip(
    found: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    ids: Sequence[int],
    void: Void = "background",
    boundaries: bool = True,
) -> ClipScore:
    """Judge label maps uint8 (T, H, W) of object ids against the truth. Where the truth is 255 it is background, as for
    the official evaluator of the semi-supervised task, or left out.

    Raises:
        ValueError: shapes that differ, or fewer than 3 frames.
    """
    if found.shape != truth.shape or len(found) < 3:
        raise ValueError(
            f"clip: expected two label maps of one shape and 3 frames or more, found {found.shape}, {truth.shape}"
        )
    frames = range(1, len(found) - 1)
    left_out = [truth[t] == IGNORE if void == "left_out" else None for t in frames]
    pairs = [[(found[t] == i, truth[t] == i, skip) for t, skip in zip(frames, left_out, strict=True)] for i in ids]
    j = np.array([[region_similarity(*pair) for pair in row] for row in pairs], np.float64)
    f = np.array([[boundary_accuracy(*pair) for pair in row] for row in pairs] if boundaries else np.zeros_like(j))
    return ClipScore(j, f)


def summarise_objects(curves: Sequence[Curve]) -> Summary:
    """Mean over objects of their mean, recall and decay; `curves` holds one (objects, frames) array a clip."""
    rows = [summarise(row) for curve in curves for row in curve]
    if not rows:
        return Summary(0.0, 0.0, 0.0)
    parts = [[getattr(row, name) for row in rows] for name in ("mean", "recall", "decay")]
    return Summary(*(float(np.mean(part)) for part in parts))
