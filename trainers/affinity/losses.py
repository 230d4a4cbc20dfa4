"""Losses of the affinity network on pairs of cells.

Source: B. Zhang et al., "Affinity Attention Graph Neural Network for Weakly Supervised Semantic Segmentation", TPAMI
2021 (arXiv 2106.04054), and its released code.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.trainers.affinity.pairs import pair_values

EPSILON = 1e-5


def pair_kinds(labels: Tensor, radius: int, background: int) -> tuple[Tensor, Tensor, Tensor]:
    """Background pairs, foreground pairs of one class, and pairs of two classes: three bool (B, P, h, w).

    `labels` int64 (B, h, w); a pair counts where both ends are inside and neither is 255.
    """
    known = (labels != IGNORE)[:, None].float()
    judged = pair_values(known, radius, lambda a, b: (a * b)[:, 0]) > 0
    values = labels[:, None].float()
    same = (pair_values(values, radius, lambda a, b: (a == b)[:, 0].float()) > 0) & judged
    ground = (labels == background)[:, None].float()
    behind = (pair_values(ground, radius, lambda a, b: (a * b)[:, 0]) > 0) & judged
    return behind, same & ~behind, judged & ~same


def pair_loss(distance: Tensor, labels: Tensor, radius: int, background: int = 0) -> Tensor:
    """1/4 mean(-log a) over background pairs + 1/4 mean(-log a) over foreground pairs of one class + 1/2 mean(-log(1 -
    a)) over pairs of two classes, a = exp(-d). A kind without a pair adds nothing.

    `distance` (B, P, h, w) of `feature_distance`, `labels` int64 (B, h, w).
    """
    affinity = torch.exp(-distance)
    behind, same, other = pair_kinds(labels, radius, background)
    alike = -torch.log(affinity + EPSILON)
    unlike = -torch.log(1 - affinity + EPSILON)
    return _mean(alike, behind) / 4 + _mean(alike, same) / 4 + _mean(unlike, other) / 2


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / (where.sum() + EPSILON)


def gated_loss(distance: Tensor, kernel: Tensor, inside: Tensor) -> Tensor:
    """Sum of K_ij d_ij over pairs inside the real image, divided by their number: near cells of like colour are pulled
    together, unlabelled ones too. All (B, P, h, w).
    """
    return (kernel * distance * inside).sum() / inside.sum().clamp(min=1)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C, h, w) on cells with a label, int64 (B, h, w). A class that holds n cells of the
    batch counts sqrt(n): rare ones are heard, frequent ones not drowned.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    counts = torch.bincount(labels[labels != IGNORE], minlength=logits.shape[1]).float()
    weights = counts.clamp(min=1).rsqrt()[labels.masked_fill(labels == IGNORE, 0)] * (labels != IGNORE)
    return (weights * losses).sum() / weights.sum().clamp(min=EPSILON)
