"""Scribble maps on other grids. Bilinear resizing invents labels between ids, and nearest neighbour loses thin
strokes; here a cell takes the label that its pixels agree on, so nothing is invented and nothing is lost.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, Uint8Array

Resize = Literal["any", "nearest"]


def resize_scribble(scribble: Uint8Array, height: int, width: int, how: Resize = "any") -> Uint8Array:
    """A scribble map uint8 (H, W) at (height, width).

    `any`: a cell takes the label of the labelled pixels that fall into it, 255 where there are none or where they
    disagree; pixels are copied on the way up. `nearest`: the pixel under each cell's centre.
    """
    source_h, source_w = scribble.shape
    if (source_h, source_w) == (height, width):
        return scribble
    rows = ((np.arange(height) + 0.5) * source_h / height).astype(int)
    columns = ((np.arange(width) + 0.5) * source_w / width).astype(int)
    nearest: Uint8Array = scribble[np.ix_(rows, columns)]
    if how == "nearest" or (height >= source_h and width >= source_w):
        return nearest
    ys, xs = np.nonzero(scribble != IGNORE)
    values = scribble[ys, xs]
    cells = (ys * height // source_h) * width + xs * width // source_w
    lowest, highest = np.full(height * width, IGNORE, np.uint8), np.zeros(height * width, np.uint8)
    np.minimum.at(lowest, cells, values)
    np.maximum.at(highest, cells, values)
    touched = (lowest != IGNORE).reshape(height, width)
    agreed = np.where(lowest == highest, lowest, IGNORE).reshape(height, width)
    grows = height > source_h or width > source_w  # one axis grows: its new cells copy their neighbours
    out: Uint8Array = np.where(touched, agreed, nearest if grows else IGNORE).astype(np.uint8)
    return out


def grid_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """Labels int64 (N, H, W) on a coarser grid (N, height, width): what the labelled pixels of a cell agree on, else
    255. No stroke is lost, however thin, unless another class shares all of its cells.
    """
    unlabelled = labels == IGNORE
    low = F.adaptive_max_pool2d(-(labels.masked_fill(unlabelled, IGNORE + 1).float())[:, None], (height, width))[:, 0]
    high = F.adaptive_max_pool2d(labels.masked_fill(unlabelled, -1).float()[:, None], (height, width))[:, 0]
    return torch.where(-low == high, high, torch.full_like(high, IGNORE)).long()


def grid_valid(valid: Tensor, height: int, width: int) -> Tensor:
    """Validity bool (N, H, W) on a coarser grid: a cell counts only where all of its pixels do."""
    return -F.adaptive_max_pool2d(-valid.float()[:, None], (height, width))[:, 0] > 0.5
