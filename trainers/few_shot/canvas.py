"""How whole images reach the square canvas when a network is tested, and how its logits come back.

Source of `corner`: PFENet (Tian et al., TPAMI 2020), and SCL (CVPR 2021) after it. That a cell then stands for slightly
more of the image than of the canvas is the release's: sides are cut to multiples of 8, truth is laid on a square of the
longer side.
"""

from typing import Literal

import cv2
import numpy as np
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, Uint8Array

TestFit = Literal["squash", "corner"]
STEP = 8


def corner_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of an image whose longer side becomes `size`; both then down to multiples of 8, at least 8."""
    longer = max(height, width)
    fitted = (int(side * (size / longer)) if side < longer else size for side in (height, width))
    first, second = (max(STEP, side // STEP * STEP) for side in fitted)
    return first, second


def corner(pixels: Uint8Array, size: int, *, mask: bool = False) -> Uint8Array:
    """uint8 (H, W[, 3]) on a canvas (size, size[, 3]), top left: an image bilinear on black, a mask nearest on 255."""
    height, width = corner_size(pixels.shape[0], pixels.shape[1], size)
    how = cv2.INTER_NEAREST if mask else cv2.INTER_LINEAR
    canvas = np.full((size, size, *pixels.shape[2:]), IGNORE if mask else 0, np.uint8)
    canvas[:height, :width] = cv2.resize(pixels, (width, height), interpolation=how)
    return canvas


def enlarged(logits: Tensor, height: int, width: int, fit: TestFit, canvas: int | None) -> Tensor:
    """Logits (B, C, h, w) at an image's own size, (B, C, height, width), by way of the `canvas` where one is given.

    All steps are bilinear with align_corners. With `corner` the canvas stands for a square of the longer side.
    """
    if canvas is not None:
        logits = _resized(logits, canvas, canvas)
    if fit == "squash":
        return _resized(logits, height, width)
    longer = max(height, width)
    return _resized(logits, longer, longer)[..., :height, :width]


def _resized(logits: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=True)
