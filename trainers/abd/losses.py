"""Losses and weights of both hosts. Targets are int64 (B, H, W); 255 counts nowhere."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE

SMOOTH = 1e-5
SMOOTH_REGION = 1e-10  # of BCP's masked Dice


def dice_loss(
    logits: Tensor, target: Tensor, region: Tensor | None = None, *, whole_background: bool = False
) -> Tensor:
    """1 - (2 Σ P Y + ε) / (Σ P² + Σ Y² + ε) with sums over batch and pixels, mean over all classes, background too.
    ε is 1e-5, and 1e-10 with a region.

    `region` bool (B, H, W): pixels outside do not count. `whole_background` lets them count for class 0, as BCP's
    released code does by accident.
    """
    judged = target != IGNORE if region is None else (target != IGNORE) & region
    truth = F.one_hot(target.masked_fill(target == IGNORE, 0), logits.shape[1]).movedim(-1, 1).to(torch.float32)
    shares = logits.float().softmax(1)
    counts = judged[:, None].expand_as(shares)
    if whole_background:
        counts = counts.clone()
        counts[:, 0] = target != IGNORE
    shares, truth = shares * counts, truth * counts
    overlap = (shares * truth).sum((0, 2, 3))
    mass = (shares.square() + truth.square()).sum((0, 2, 3))
    smooth = SMOOTH if region is None else SMOOTH_REGION
    return (1 - (2 * overlap + smooth) / (mass + smooth)).mean()


def cross_entropy(logits: Tensor, target: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean over judged pixels; 0 where there are none."""
    judged = target if region is None else target.masked_fill(~region, IGNORE)
    total = F.cross_entropy(logits.float(), judged, ignore_index=IGNORE, reduction="sum")
    return total / (judged != IGNORE).sum().clamp(min=1)


def supervised_loss(logits: Tensor, target: Tensor) -> Tensor:
    """½ (cross-entropy + Dice)."""
    return 0.5 * (cross_entropy(logits, target) + dice_loss(logits, target))


def mixed_loss(
    logits: Tensor,
    image_label: Tensor,
    patch_label: Tensor,
    outside: Tensor,
    image_weight: float,
    patch_weight: float,
    *,
    whole_background: bool = False,
) -> Tensor:
    """BCP's ½ (Dice + cross-entropy): `image_label` where `outside` bool (H, W), `patch_label` elsewhere, each region
    with a weight of its own.
    """
    total = logits.new_zeros((), dtype=torch.float32)
    for label, region, weight in ((image_label, outside, image_weight), (patch_label, ~outside, patch_weight)):
        where = region.expand(label.shape)
        dice = dice_loss(logits, label, where, whole_background=whole_background)
        total = total + weight * 0.5 * (dice + cross_entropy(logits, label, where))
    return total


def cross_pseudo_loss(logits: Tensor, other: Tensor) -> Tensor:
    """Dice against the other network's hard labels, which carry no gradient."""
    return dice_loss(logits, other.detach().argmax(1))


def ramp(step: int, length: int, blocks: int = 200) -> float:
    """exp(-5 (1 - t)²), t rising from 0 to 1 over `length` steps in `blocks` equal stairs (30,000: 150 steps each)."""
    done = min(step * blocks // length, blocks) / blocks
    return math.exp(-5 * (1 - done) ** 2)
