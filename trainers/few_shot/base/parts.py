"""What the base networks share: resizing, masked means, and what a decoder answers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Grid = tuple[int, int]
EPSILON = 5e-4  # added to areas, as released


@dataclass(frozen=True)
class Decoded:
    """`logits` (B, 2, h, w). `inner`: logits of each scale, (B, 2, h', w'), for auxiliary losses. `levels`: features
    of each scale, which a second pass may take as its inter-scale input. `correlations`: maps (B, h', w'), coarse to
    fine, of a matching decoder. `final`: scores (B, 2, h, w) of an ensemble.
    """

    logits: Tensor
    inner: tuple[Tensor, ...] = ()
    levels: tuple[Tensor, ...] = ()
    correlations: tuple[Tensor, ...] = ()
    final: Tensor | None = None

    @property
    def answer(self) -> Tensor:
        """What decides: the ensemble's scores where there is one, else the logits."""
        return self.logits if self.final is None else self.final


def resize(maps: Tensor, grid: Grid) -> Tensor:
    """Bilinear with align_corners, (B, C, h, w) to `grid`: exact pixels where sides are 8k + 1 and k + 1."""
    if maps.shape[2:] == torch.Size(grid):
        return maps
    if maps.shape[1] == 0:  # a network without priors
        return maps.new_zeros(maps.shape[0], 0, *grid)
    return F.interpolate(maps, grid, mode="bilinear", align_corners=True)


def masked_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Masked average pooling: features (B, C, h, w), mask (B, 1, h, w) to (B, C, 1, 1); zero where the mask is."""
    total = (features * mask).sum(dim=(2, 3), keepdim=True)
    return total / (mask.sum(dim=(2, 3), keepdim=True) + EPSILON)


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    """Convolution without bias, then ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.ReLU(inplace=True))


def classifier(width: int, dropout: float = 0.1) -> nn.Sequential:
    """3x3, ReLU, dropout, 1x1 to background and object."""
    return nn.Sequential(*conv(width, width), nn.Dropout2d(dropout), nn.Conv2d(width, 2, 1))
