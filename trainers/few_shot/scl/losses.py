"""Losses of episodes: cross-entropy at the canvas, deaf to 255, of the main and the inner logits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from data_contracts import IGNORE
from trainers.few_shot.base import Decoded, resize


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Logits (B, 2, h, w), upsampled bilinearly (align_corners) to target int64 (B, H, W) of 0, 1 and 255."""
    full = resize(logits.float(), (target.shape[1], target.shape[2]))
    losses = F.cross_entropy(full, target, ignore_index=IGNORE, reduction="sum")
    return losses / (target != IGNORE).sum().clamp(min=1)


def inner_loss(inner: Sequence[Tensor], target: Tensor) -> Tensor:
    """Mean over scales; 0 for a decoder without inner logits."""
    if not inner:
        return torch.zeros((), device=target.device)
    return torch.stack([cross_entropy(logits, target) for logits in inner]).mean()


def decoded_loss(decoded: Decoded, target: Tensor, inner_weight: float = 1.0) -> Tensor:
    """CE(main) + weight * mean over scales of CE(inner): PFENet's loss, and each of SCL's three terms."""
    return cross_entropy(decoded.logits, target) + inner_weight * inner_loss(decoded.inner, target)


def scl_loss(
    query: Decoded,
    first: Decoded,
    second: Decoded,
    query_target: Tensor,
    support_target: Tensor,
    *,
    support_weight: float = 1.0,
    inner_weight: float = 1.0,
) -> Tensor:
    """L_main + L_aux: the query, and the support's first and second segmentation; 3 main and 3 x scales inner terms.

    `support_weight` 0 leaves PFENet's loss.
    """
    loss = decoded_loss(query, query_target, inner_weight)
    for support in (first, second):
        loss = loss + support_weight * decoded_loss(support, support_target, inner_weight)
    return loss
