"""The image tower before any training: it names photos as its teacher does.

Tokens hold the photo's place in the space (channels 0-159), the decorrelated middle features (160-271) and the
position (272-283); the rest is free. Attention starts as similarity of tokens: two heads compare what they show, one
how they look, two both. The value path carries the space through unchanged and LayerScale is small, so that a block
starts as a slight smoothing, and the gradient of a class at the last block's norm points along the class's text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskmill.starter.clip_training.photos import PhotoSet
from maskmill.starter.clip_training.space import DIMENSIONS, Space
from maskmill.starter.clip_training.teacher import head_features
from maskmill.vision.clip.towers import (
    HEAD_CHANNELS,
    HEADS,
    MIDDLE_CHANNELS,
    POSITION_CHANNELS,
    WIDTH,
    position_channels,
)

HEAD_WIDTH = WIDTH // HEADS
MIDDLE_START = DIMENSIONS
POSITION_START = DIMENSIONS + MIDDLE_CHANNELS
POSITION_GAIN = 2.0
LAYER_SCALE = 0.05

#: For each head: channel ranges with their weights, and the sharpness of its attention.
HEAD_CHANNEL_RANGES: tuple[tuple[tuple[tuple[int, int, float], ...], float], ...] = (
    (((0, 58, 1.0), (POSITION_START, POSITION_START + 6, 0.5)), 0.15),
    (((0, 64, 1.0),), 0.15),
    (((MIDDLE_START, MIDDLE_START + 58, 1.0), (POSITION_START, POSITION_START + 6, 0.5)), 0.2),
    (((0, 32, 1.0), (MIDDLE_START, MIDDLE_START + 32, 1.0)), 0.2),
    (((0, 32, 1.0), (MIDDLE_START, MIDDLE_START + 32, 1.0)), 0.2),
)


def middle_axes(photos: list[PhotoSet]) -> tuple[Tensor, Tensor]:
    """Mean (112,) of the middle features and their axes (112, 112), each scaled by the fourth root of 1 / variance.

    Half-way to white: white noise would drown the axes that tell objects apart.
    """
    sample = torch.cat(
        [
            torch.from_numpy(np.array(p.middle[::3])).float().permute(0, 2, 3, 1).reshape(-1, MIDDLE_CHANNELS)
            for p in photos
        ]
    )
    mean = sample.mean(0)
    covariance = torch.cov((sample - mean).T)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    axes = (vectors * values.clamp_min(1e-3).pow(-0.25)).T
    return mean, axes / (axes @ covariance @ axes.T).diagonal().mean().sqrt()


@torch.no_grad()
def start_as_teacher(clip: Any, teacher: nn.Module, space: Space, mean: Tensor, axes: Tensor) -> None:
    """Fill the image tower of `clip` in place. `mean`, `axes`: see `middle_axes`."""
    trunk = clip.visual.trunk
    weights = {k: v for k, v in teacher.state_dict().items() if not k.startswith("classifier")}
    trunk.patch_embed.backbone.net.load_state_dict(weights)
    proj = trunk.patch_embed.proj
    proj.weight.zero_()
    proj.bias.zero_()
    middle = slice(MIDDLE_START, POSITION_START)
    proj.weight[:DIMENSIONS, :HEAD_CHANNELS, 0, 0] = space.directions
    proj.bias[:DIMENSIONS] = -space.directions @ space.mean
    proj.weight[middle, HEAD_CHANNELS : HEAD_CHANNELS + MIDDLE_CHANNELS, 0, 0] = axes
    proj.bias[middle] = -axes @ mean
    place = slice(POSITION_START, POSITION_START + POSITION_CHANNELS)
    proj.weight[place, -POSITION_CHANNELS:, 0, 0] = POSITION_GAIN * torch.eye(POSITION_CHANNELS)
    for block in trunk.blocks:
        _start_block(block)
    head = clip.visual.head.proj
    head.weight.zero_()
    head.bias.zero_()
    head.weight[:DIMENSIONS, :DIMENSIONS] = torch.eye(DIMENSIONS)
    head.bias[DIMENSIONS] = space.evidence
    clip.logit_scale.fill_(math.log(space.scale))


def _start_block(block: Any) -> None:
    similar = torch.zeros(WIDTH, WIDTH)
    for head, (ranges, sharpness) in enumerate(HEAD_CHANNEL_RANGES):
        channels = [(channel, weight) for first, last, weight in ranges for channel in range(first, last)]
        for row, (channel, weight) in enumerate(channels):
            similar[head * HEAD_WIDTH + row, channel] = weight * math.sqrt(sharpness * math.sqrt(HEAD_WIDTH))
    carry = torch.zeros(WIDTH, WIDTH)
    carry[:DIMENSIONS, :DIMENSIONS] = torch.eye(DIMENSIONS)
    block.attn.qkv.weight.copy_(torch.cat([similar, similar, carry]))
    block.attn.qkv.bias.zero_()
    block.attn.proj.weight.copy_(carry)
    block.attn.proj.bias.zero_()
    block.ls1.gamma.fill_(LAYER_SCALE)
    block.ls2.gamma.fill_(1e-3)
    block.mlp.fc2.bias.zero_()


@torch.inference_mode()
def first_tokens(clip: Any, teacher: nn.Module, photos: PhotoSet) -> Tensor:
    """What the first block is given, from stored trunk maps: float16 (n, s*s, 320)."""
    side = photos.last.shape[-1]
    place = position_channels(side, side, torch.zeros(1))
    out = []
    for start in range(0, len(photos.last), 16):
        head = head_features(teacher, torch.from_numpy(np.array(photos.last[start : start + 16])).float())
        middle = torch.from_numpy(np.array(photos.middle[start : start + 16])).float()
        maps = torch.cat([head, middle, place.expand(len(head), -1, -1, -1)], dim=1)
        out.append(clip.visual.trunk.patch_embed.proj(maps).flatten(2).transpose(1, 2).half())
    return torch.cat(out)
