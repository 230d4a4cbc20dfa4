"""The segmenter, and the feature consistency head that reads its encoder during training only."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIRST_LEVEL = 2  # smp's feature i has stride 2^i: levels of stride 4, 8, 16, 32


class FeatureConsistencyHead(nn.Module):
    """Embedding E (N, D, h, w) from an encoder's levels (shallow and deep), modelled on A2GNN's.

    1x1 convolution a level, bilinear to the loss grid, 3x3 convolution + GroupNorm + GELU, 1x1 convolution whose
    Xavier gain of 4 keeps first distances well above 0.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int], dim: int) -> None:
        super().__init__()
        if len(channels) != len(widths):
            raise ValueError(f"head_widths: expected {len(channels)} for this encoder's levels, found {len(widths)}")
        self.reduce = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.mix = nn.Sequential(
            nn.Conv2d(sum(widths), dim, 3, padding=1, bias=False), nn.GroupNorm(math.gcd(8, dim), dim), nn.GELU()
        )
        self.out = nn.Conv2d(dim, dim, 1)
        nn.init.xavier_uniform_(self.out.weight, gain=4.0)
        nn.init.zeros_(torch.as_tensor(self.out.bias))

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        levels = [
            F.interpolate(conv(f), grid, mode="bilinear", align_corners=False)
            for conv, f in zip(self.reduce, features, strict=True)
        ]
        embedding: Tensor = self.out(self.mix(torch.cat(levels, dim=1)))
        return embedding


def segment(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits (N, C, H, W) of an smp model and the encoder's levels from stride 4 on, from one pass."""
    features = model.encoder(images)
    logits: Tensor = model.segmentation_head(model.decoder(features))
    return logits, list(features[FIRST_LEVEL:])


def level_channels(model: Any) -> list[int]:
    """Channels of the levels that `segment` returns."""
    return [int(c) for c in model.encoder.out_channels[FIRST_LEVEL:]]
