"""The trainable part of WeCLIP: from the frozen tokens of every block to class logits and to the decoder's affinity.

Source: B. Zhang et al., "Frozen CLIP: A Strong Backbone for Weakly Supervised Semantic Segmentation", CVPR 2024; the
second branch follows its successor WeCLIP+ (TPAMI 2025).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Grid = tuple[int, int]
WIDTH = 256
HEADS = 8
LAYERS = 3
DROPOUT = 0.1
AffinityForm = Literal["inner", "centred"]
GAIN = 8.0  # of the cosines of centred features


@dataclass(frozen=True)
class Decoded:
    """`logits` (B, C, h, w) at the token grid; `features` (B, F, h, w), whose inner products are the affinity."""

    logits: Tensor
    features: Tensor


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP over tokens (B, n, width), without position embedding and dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGelu(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm1(x)
        x = x + self.attention(z, z, z, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def level_mlp(width: int) -> nn.Sequential:
    """One level's tokens to the decoder's width."""
    return nn.Sequential(nn.Linear(width, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


class Decoder(nn.Module):
    """One MLP a level, a 1x1 fusion, three transformer blocks and a 1x1 classifier.

    `levels` feature sets of `width` channels come from the frozen CLIP. With `second` (channels of another frozen
    encoder) that encoder's features take the same transformer and classifier, and the two logits are averaged.
    """

    def __init__(self, levels: int, width: int, classes: int, second: int | None = None) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(level_mlp(width) for _ in range(levels))
        self.fuse = nn.Conv2d(WIDTH * levels, WIDTH, 1)
        self.second_mlp = None if second is None else level_mlp(second)
        self.second_fuse = None if second is None else nn.Conv2d(WIDTH, WIDTH, 1)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.blocks = nn.Sequential(*(TransformerBlock(WIDTH, HEADS) for _ in range(LAYERS)))
        self.head = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, levels: Sequence[Tensor], grid: Grid, second: Tensor | None = None) -> Decoded:
        """`levels` (B, n, width) each, patch tokens only, n = h*w of `grid`; `second` (B, channels, h', w')."""
        parts = [_to_map(mlp(tokens), grid) for mlp, tokens in zip(self.mlps, levels, strict=True)]
        features = self.dropout(self.fuse(torch.cat(parts, dim=1)))
        logits = self._classify(features)
        if self.second_mlp is None or self.second_fuse is None:
            return Decoded(logits, features)
        if second is None:
            raise ValueError("decoder with a second branch: expected the second encoder's features, found None")
        tokens = F.interpolate(second, grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
        others = self.dropout(self.second_fuse(_to_map(self.second_mlp(tokens), grid)))
        return Decoded((logits + self._classify(others)) / 2, torch.cat([features, others], dim=1))

    def _classify(self, features: Tensor) -> Tensor:
        grid = (features.shape[2], features.shape[3])
        with _attention_kernel(features):
            tokens = self.blocks(features.flatten(2).transpose(1, 2))
        logits: Tensor = self.head(_to_map(tokens, grid))
        return logits


def _attention_kernel(features: Tensor) -> AbstractContextManager[None]:
    """On a CPU the fused kernel's backward takes longer than plain products, at the few hundred tokens of a crop."""
    plain = features.device.type == "cpu" and torch.is_grad_enabled()
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def _to_map(tokens: Tensor, grid: Grid) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def affinity_logits(features: Tensor, form: AffinityForm = "inner") -> Tensor:
    """Features (B, F, h, w) to logits (B, n, n), symmetric, whose sigmoid is the decoder's affinity A_f.

    `inner` (paper and release): F^T F. `centred`: cosines of the features less their mean over the image, times `GAIN`,
    so that a sigmoid can tell them apart whatever the features' length is.
    """
    flat = features.float().flatten(2)
    if form == "centred":
        unit = F.normalize(flat - flat.mean(dim=2, keepdim=True), dim=1)
        return GAIN * unit.transpose(1, 2) @ unit
    return flat.transpose(1, 2) @ flat
