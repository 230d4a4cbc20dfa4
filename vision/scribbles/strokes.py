"""Strokes as vectors, drawn at the size at which they are needed, so that their width is constant there."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array

FAR = 30_000  # OpenCV draws with 16-bit coordinates inside; strokes that leave the image are clipped well before


@dataclass(frozen=True, eq=False)
class Stroke:
    """One open polyline: `points` float (K, 2) of x, y in pixels of the source image, K at least 1."""

    class_id: int
    points: NDArray[np.float64]


def rasterise(
    strokes: Sequence[Stroke],
    height: int,
    width: int,
    line_width: int = 1,
    source: tuple[int, int] | None = None,
) -> Uint8Array:
    """Draw strokes with a round pen into uint8 (height, width), 255 where there is none.

    `source` is the (height, width) that the points refer to, where it is another. Later strokes lie on top; what
    leaves the image is clipped. The Gated CRF release draws width 1 after augmentation, rloss width 3 before it.

    Raises:
        ValueError: a line width below 1, or an id that is no class.
    """
    if line_width < 1:
        raise ValueError(f"line_width: expected 1 or more pixels, found {line_width}")
    factor = np.ones(2) if source is None else np.array([width / source[1], height / source[0]])
    out = np.full((height, width), IGNORE, np.uint8)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (line_width, line_width))
    for stroke in strokes:
        if not 0 <= stroke.class_id < IGNORE:
            raise ValueError(f"stroke: expected a class id of 0..254, found {stroke.class_id}")
        # Pixel centres lie at half numbers: scaling about them keeps a stroke from drifting.
        points = (np.asarray(stroke.points, np.float64).reshape(-1, 2) + 0.5) * factor - 0.5
        corners = np.clip(np.rint(points), -FAR, FAR).astype(np.int32)
        thin = np.zeros((height, width), np.uint8)
        cv2.polylines(thin, [corners.reshape(-1, 1, 2)], False, 1)
        inside = corners[((corners >= 0) & (corners < [width, height])).all(axis=1)]
        thin[inside[:, 1], inside[:, 0]] = 1  # a stroke of one point is a dot, which OpenCV leaves out
        out[(cv2.dilate(thin, pen) if line_width > 1 else thin) > 0] = stroke.class_id
    return out


def shrink_stroke(stroke: Stroke, ratio: float) -> Stroke:
    """The middle part of a stroke, `ratio` of its length (the shrink test of URSS, Pan et al. 2021); 0 = one point."""
    points = np.asarray(stroke.points, np.float64).reshape(-1, 2)
    steps = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    total = float(along[-1])
    start, stop = total * (1 - ratio) / 2, total * (1 + ratio) / 2
    inside = along[(along > start) & (along < stop)]
    at = np.concatenate([[start], inside, [stop]]) if stop > start else np.array([total / 2])
    middle = np.stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)], axis=1)
    return Stroke(stroke.class_id, middle)
