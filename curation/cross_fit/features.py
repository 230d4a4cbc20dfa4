"""Frozen features of an image on a coarse grid, as small whole numbers.

Whole numbers, because sums of their products are exact in float64 up to 2^53: what a data set teaches does then not
depend on how it was cut into shards, on the order of the shards, or on the number of threads.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from maskmill.curation.cross_fit.config import CrossFitOptions
from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.vision.device import pick_device
from maskmill.vision.segmenters import build_encoder, encoder_normalisation

Features = NDArray[np.float32]
STRIDE = 8  # pixels of the resized image that a cell is wide and high
STAGES = (1, 2, 3, 4)  # feature maps at strides 4, 8, 16 and 32
STEPS = 16  # a unit is so many steps
LARGEST = 127  # steps
PLACES = 5  # x, y, x², xy, y²
SHARE_STEPS = 16  # of a cell's area


class FrozenFeatures:
    """An encoder that learns nothing. Images go through it one by one: a kernel may round otherwise in a batch."""

    def __init__(self, options: CrossFitOptions) -> None:
        self.device = str(pick_device())
        self._side = options.side
        encoder = build_encoder(options.encoder, options.weights, out_indices=STAGES)
        self._encoder = encoder.to(self.device).eval().requires_grad_(False)
        mean, std = encoder_normalisation(options.encoder)
        self._mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)
        info: Any = encoder.feature_info
        self._last = int(info.channels()[-1])
        self.width = sum(info.channels()) + PLACES + 1

    @property
    def grid(self) -> int:
        """Cells a side."""
        return self._side // STRIDE

    @torch.no_grad()
    def of(self, image: Uint8Array) -> Features:
        """Whole numbers as float32 (grid², width) of an image uint8 (H, W, 3); the last column is 1.

        Every stage's vector has a root mean square of 1 at each cell, in steps of 1/16, cut at 127 steps.
        """
        small = cv2.resize(image, (self._side, self._side), interpolation=cv2.INTER_AREA)
        pixels = torch.from_numpy(small).to(self.device).permute(2, 0, 1)[None].float() / 255
        maps = [self._on_grid(one) for one in self._encoder((pixels - self._mean) / self._std)]
        flat = torch.cat(maps, dim=1)[0].flatten(1).T
        whole = torch.round(flat * STEPS).clamp(-LARGEST, LARGEST).cpu().numpy()
        return np.concatenate([whole, _places(self.grid)], axis=1, dtype=np.float32)

    def embedding(self, features: Features) -> Features:
        """Mean of the coarsest stage over all cells, float32 (channels,)."""
        end = self.width - PLACES - 1
        mean: Features = features[:, end - self._last : end].mean(axis=0)
        return mean

    def _on_grid(self, stage: Tensor) -> Tensor:
        unit = stage / stage.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
        if unit.shape[-1] >= self.grid:
            return F.adaptive_avg_pool2d(unit, self.grid)
        return F.interpolate(unit, size=(self.grid, self.grid), mode="bilinear", align_corners=False)


def _places(grid: int) -> Features:
    """Where a cell lies, and 1: (grid², PLACES + 1)."""
    line = (np.arange(grid) + 0.5) / grid * 2 - 1
    y, x = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    columns = np.stack([x, y, x * x, x * y, y * y], axis=1)
    return np.concatenate([np.round(columns * STEPS), np.ones((grid * grid, 1))], axis=1, dtype=np.float32)


def cell_shares(mask: Uint8Array, ids: tuple[int, ...], grid: int) -> Features:
    """How much of each cell a class covers, in whole sixteenths: float32 (grid², len(ids)). What is 255, or no class
    of `ids`, covers nothing.
    """
    shares = [
        cv2.resize((mask == i).astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
        if i != IGNORE and (mask == i).any()
        else np.zeros((grid, grid), np.float32)
        for i in ids
    ]
    stacked: Features = np.round(np.stack(shares, axis=-1).reshape(grid * grid, len(ids)) * SHARE_STEPS)
    return stacked
