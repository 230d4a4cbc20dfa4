"""WeCLIP's two losses, both deaf to labels of 255."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE

AffinityLoss = Literal["linear", "bce"]
WINDOW_RADIUS = 8


def segmentation_loss(logits: Tensor, labels: Tensor, background: int, stride: int = 1) -> Tensor:
    """Half the mean cross-entropy over background pixels plus half that over all others: logits (B, C, h, w), upsampled
    bilinearly to labels int64 (B, H, W). A half without pixels counts 0.

    With `stride` > 1 only the middle pixel of every stride x stride block counts, and logits are upsampled to these.
    """
    labels = labels[:, stride // 2 :: stride, stride // 2 :: stride]
    full = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(full, labels, ignore_index=IGNORE, reduction="none")
    behind = labels == background
    before = ~behind & (labels != IGNORE)
    return 0.5 * _mean(losses, behind) + 0.5 * _mean(losses, before)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)


def affinity_targets(labels: Tensor, grid: tuple[int, int], radius: int = WINDOW_RADIUS) -> tuple[Tensor, Tensor]:
    """Which token pairs must be alike and which must differ, bool (B, n, n) each, from labels int64 (B, H, W).

    Labels are taken at the grid by nearest neighbour; background counts as a class. Pairs farther apart than `radius`
    rows or columns, and pairs with a 255, are in neither.
    """
    small = F.interpolate(labels[:, None].float(), grid, mode="nearest")[:, 0].long().flatten(1)
    judged = (small != IGNORE)[:, :, None] & (small != IGNORE)[:, None, :]
    judged = judged & window(grid, radius, labels.device)
    same = small[:, :, None] == small[:, None, :]
    return judged & same, judged & ~same


def window(grid: tuple[int, int], radius: int, device: torch.device) -> Tensor:
    """Pairs of tokens at most `radius` rows and columns apart: bool (n, n)."""
    rows = torch.arange(grid[0], device=device).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], device=device).repeat(grid[0])
    near_rows = (rows[:, None] - rows[None]).abs() <= radius
    return near_rows & ((columns[:, None] - columns[None]).abs() <= radius)


def affinity_loss(logits: Tensor, labels: Tensor, grid: tuple[int, int], kind: AffinityLoss = "linear") -> Tensor:
    """Teach A_f = sigmoid(logits (B, n, n)) the pairs of `labels`: half over pairs alike, half over pairs that differ.

    `linear` (released code): 1 - A_f and A_f; `bce` (paper): -log A_f and -log(1 - A_f). Sums are divided by the counts
    over the batch plus one.
    """
    alike, differ = affinity_targets(labels, grid)
    if kind == "linear":
        affinity = logits.sigmoid()
        wrong_alike, wrong_differ = 1 - affinity, affinity
    else:
        wrong_alike, wrong_differ = F.softplus(-logits), F.softplus(logits)
    return 0.5 * (wrong_alike * alike).sum() / (alike.sum() + 1) + 0.5 * (wrong_differ * differ).sum() / (
        differ.sum() + 1
    )
