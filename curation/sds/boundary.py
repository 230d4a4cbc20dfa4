"""Boundary agreement: do the borders of an annotation lie on edges of the image? A second look at masks, which needs
no model.

A mask of another image, or one that was shifted, may still cover much of what CLIP lights up, but its border crosses
smooth surfaces. The score of a border is the mean percentile, among all pixels of the image, of the edge strength
beneath it: about 0.5 by chance, above 0.8 for careful masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from maskmill.data_contracts import Uint8Array

WORK_SIDE = 320  # longer side at which edges are measured, so that the widths below mean the same for every image
SMOOTHING = 3.0  # standard deviation in pixels: edges of objects, not of texture
TOLERANCE = 2  # pixels by which a border may miss its edge
MARGIN = 2  # border pixels this close to the frame are no border
CHANCE = 0.5


@dataclass(frozen=True)
class BoundaryScore:
    """Lead over chance of the borders of all classes together, and of each: 0 = no better than chance, 1 = strongest
    edges only.
    """

    pooled: float
    per_class: dict[int, float]


def boundary_score(
    image: Uint8Array, mask: Uint8Array, class_ids: Sequence[int], labels: Sequence[int] | None = None
) -> BoundaryScore:
    """Score the borders of `class_ids` in `mask` uint8 (H, W) over `image` uint8 (H, W, 3).

    Pooled by length of border. A class that has none inside the frame counts as chance, and so does one that is not
    among `labels` (what the image is said to show): its border may be perfect, but it is the border of something
    else.
    """
    small_image, small_mask = _shrink(image, mask)
    percentiles = edge_percentiles(small_image)
    borders = {i: _border(small_mask == i) for i in class_ids}
    means = {i: float(percentiles[b].mean()) if b.any() else CHANCE for i, b in borders.items()}
    per_class = {
        i: max(0.0, (mean - CHANCE) / (1 - CHANCE)) if labels is None or i in labels else 0.0
        for i, mean in means.items()
    }
    lengths = [max(int(b.sum()), 1) for b in borders.values()]
    return BoundaryScore(float(np.average(list(per_class.values()), weights=lengths)), per_class)


def edge_percentiles(image: Uint8Array) -> NDArray[np.float64]:
    """Edge strength of every pixel as its rank among all pixels, in (0, 1]; gradient of smoothed CIELAB, widened by
    the tolerance.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), SMOOTHING)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32)
    squares = [cv2.Sobel(lab, cv2.CV_32F, dx, dy) ** 2 for dx, dy in ((1, 0), (0, 1))]
    strength = np.sqrt(np.sum(squares, axis=(0, 3)))
    wide = cv2.dilate(strength, np.ones((2 * TOLERANCE + 1, 2 * TOLERANCE + 1)))
    return np.asarray(rankdata(wide.ravel()).reshape(wide.shape) / wide.size)


def _border(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels on either side of a region's outline, away from the frame."""
    border = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    border[:MARGIN] = border[-MARGIN:] = False
    border[:, :MARGIN] = border[:, -MARGIN:] = False
    return np.asarray(border)


def _shrink(image: Uint8Array, mask: Uint8Array) -> tuple[Uint8Array, Uint8Array]:
    height, width = mask.shape
    factor = WORK_SIDE / max(height, width)
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    shrink = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, size, interpolation=shrink), cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(small[0], dtype=np.uint8), np.asarray(small[1], dtype=np.uint8)
