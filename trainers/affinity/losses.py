"""Losses of the affinity network on pairs of cells.

Source: B. Zhang et al., "Affinity Attention Graph Neural Network for Weakly Supervised Semantic Segmentation", TPAMI
2021 (arXiv 2106.04054), and its released code.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.trainers.affinity.pairs import feature_distance, pair_values

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
    behind, same, other = pair_kinds(labels, radius, background)
    alike, unlike = _costs(distance)
    return _mean(alike, behind) / 4 + _mean(alike, same) / 4 + _mean(unlike, other) / 2


def released_pair_loss(features: Tensor, labels: Tensor, radius: int, background: int = 0) -> Tensor:
    """`pair_loss` with the release's borders, from the embedding (B, E, h, w).

    There every pair counts from both of its ends, a cell is a pair with itself (a = 1), and what lies beyond the grid
    is background with an embedding of 0.
    """
    kinds = pair_kinds(labels, radius, background)
    known = labels != IGNORE
    behind = known & (labels == background)
    alike, unlike = _costs(feature_distance(features, radius))
    own, _ = _costs(torch.zeros_like(features[:, 0]))
    alike_out, unlike_out = _costs(features.abs().mean(dim=1))
    beyond = cells_beyond(labels, radius)
    parts = (
        (alike, kinds[0], [(own, behind.float()), (alike_out, beyond * behind)], 0.25),
        (alike, kinds[1], [(own, (known & ~behind).float())], 0.25),
        (unlike, kinds[2], [(unlike_out, beyond * (known & ~behind))], 0.5),
    )
    total = features.new_zeros(())
    for costs, where, more, weight in parts:
        sums = 2 * (costs * where).sum() + sum((c * w).sum() for c, w in more)
        count = 2 * where.sum() + sum(w.sum() for _, w in more)
        total = total + weight * sums / (count + EPSILON)
    return total


def cells_beyond(labels: Tensor, radius: int) -> Tensor:
    """How many places of each cell's window lie beyond the grid: float (B, h, w)."""
    inside = torch.ones_like(labels[:, None], dtype=torch.float32)
    side = 2 * radius + 1
    seen = F.avg_pool2d(inside, side, stride=1, padding=radius, count_include_pad=True)
    return (side * side * (1 - seen[:, 0])).round()


def _costs(distance: Tensor) -> tuple[Tensor, Tensor]:
    """-log a and -log(1 - a) of a = exp(-distance)."""
    affinity = torch.exp(-distance)
    return -torch.log(affinity + EPSILON), -torch.log(1 - affinity + EPSILON)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / (where.sum() + EPSILON)


def gated_loss(distance: Tensor, kernel: Tensor, inside: Tensor, cells: Tensor | None = None) -> Tensor:
    """Sum of K_ij d_ij over pairs inside the real image, divided by their number: near cells of like colour are pulled
    together, unlabelled ones too. All (B, P, h, w).

    `cells` bool (B, h, w), inside the real image: each counts as a pair with itself, as released.
    """
    count = inside.sum() if cells is None else inside.sum() + cells.sum() / 2
    return (kernel * distance * inside).sum() / count.clamp(min=1)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C, h, w) on cells with a label, int64 (B, h, w). A class that holds n cells of the
    batch counts sqrt(n): rare ones are heard, frequent ones not drowned.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    counts = torch.bincount(labels[labels != IGNORE], minlength=logits.shape[1]).float()
    weights = counts.clamp(min=1).rsqrt()[labels.masked_fill(labels == IGNORE, 0)] * (labels != IGNORE)
    return (weights * losses).sum() / weights.sum().clamp(min=EPSILON)
