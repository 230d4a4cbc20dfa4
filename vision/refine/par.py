"""PAR: pixel-adaptive refinement, which lets maps flow between pixels of like colour.

Source: L. Ru et al., "Learning Affinity from Attention" (AFA), CVPR 2022; used in this form by B. Zhang et al., "Frozen
CLIP: A Strong Backbone for Weakly Supervised Semantic Segmentation" (WeCLIP), CVPR 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
SHARPNESS = 0.3
POSITION_WEIGHT = 0.01


def par(
    images: torch.Tensor,
    maps: torch.Tensor,
    *,
    iterations: int = 10,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
) -> torch.Tensor:
    """Refine `maps` float (B, K, H, W) by `images` float (B, 3, h, w), resized to H x W (bilinear, align_corners).

    m_i <- sum_j weight_ij m_j over the 8 * len(dilations) neighbours j of pixel i (itself not included, replicate
    padding), with weight = softmax_j(-mean_rgb(|I_i - I_j| / (0.3 std_i))^2) + 0.01 softmax_j(-(d_j / (0.3 std(d)))^2),
    where std_i runs over the neighbours' values, per channel, and d_j is the distance in pixels. Weights sum to 1.01:
    all maps grow alike by 1.01 a step, which moves no argmax. Any scale of `images` will do, per channel. AFA takes 10
    steps on VOC, 15 on COCO; WeCLIP 20.

    Raises:
        ValueError: shapes that do not fit.
    """
    import torch
    import torch.nn.functional as F

    if images.ndim != 4 or maps.ndim != 4 or len(images) != len(maps) or images.shape[1] != 3:
        raise ValueError(
            f"par: want (B, 3, h, w) and (B, K, H, W), found {tuple(images.shape)} and {tuple(maps.shape)}"
        )
    images = images.to(maps.dtype)
    if images.shape[2:] != maps.shape[2:]:
        images = F.interpolate(images, size=maps.shape[2:], mode="bilinear", align_corners=True)
    weights = _colour_weights(images, dilations) + POSITION_WEIGHT * _position_weights(images, dilations)
    for _ in range(iterations):
        spread = torch.zeros_like(maps)
        for j, neighbour in enumerate(_neighbours(maps, dilations)):
            spread.addcmul_(weights[:, j : j + 1], neighbour)
        maps = spread
    return maps


def _neighbours(x: torch.Tensor, dilations: tuple[int, ...]) -> Iterator[torch.Tensor]:
    """Views of `x` (B, C, H, W) shifted to each neighbour, all dilations of all 8 directions."""
    import torch.nn.functional as F

    height, width = x.shape[2:]
    reach = max(dilations)
    padded = F.pad(x, [reach] * 4, mode="replicate")
    for dilation in dilations:
        for dy, dx in DIRECTIONS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[:, :, top : top + height, left : left + width]


def _colour_weights(images: torch.Tensor, dilations: tuple[int, ...]) -> torch.Tensor:
    """(B, 8 * len(dilations), H, W), sums to 1 over neighbours. Three passes, lest a (B, 3, 48, H, W) be held."""
    import torch

    count = 8 * len(dilations)
    mean = torch.zeros_like(images)
    for neighbour in _neighbours(images, dilations):
        mean += neighbour / count
    variance = torch.zeros_like(images)
    for neighbour in _neighbours(images, dilations):
        variance += (neighbour - mean) ** 2 / (count - 1)
    scale = (variance.sqrt() + 1e-8) * SHARPNESS
    terms = [-(((images - n) / scale) ** 2).mean(dim=1) for n in _neighbours(images, dilations)]
    return torch.stack(terms, dim=1).softmax(dim=1)


def _position_weights(like: torch.Tensor, dilations: tuple[int, ...]) -> torch.Tensor:
    """(1, 8 * len(dilations), 1, 1), sums to 1."""
    distances = [d * (math.sqrt(2) if dy and dx else 1.0) for d in dilations for dy, dx in DIRECTIONS]
    far = like.new_tensor(distances)
    return (-((far / ((far.std() + 1e-8) * SHARPNESS)) ** 2)).softmax(dim=0).view(1, -1, 1, 1)
