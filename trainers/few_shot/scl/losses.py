"""Losses of episodes: cross-entropy at the canvas, deaf to 255, of the main and the inner logits."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.trainers.few_shot.base import Decoded, resize


def cross_entropy(logits: Tensor, target: Tensor, object_weight: float = 1.0) -> Tensor:
    """Logits (B, 2, h, w), upsampled bilinearly (align_corners) to target int64 (B, H, W) of 0, 1 and 255.

    `object_weight` times as much counts a pixel of the object (a weighted mean; 1 = the papers').
    """
    full = resize(logits.float(), (target.shape[1], target.shape[2]))
    weight = torch.tensor([1.0, object_weight], device=target.device)
    losses = F.cross_entropy(full, target, weight, ignore_index=IGNORE, reduction="sum")
    total = (target == 0).sum() + object_weight * (target == 1).sum()
    return losses / total.clamp(min=1)


def inner_loss(inner: Sequence[Tensor], target: Tensor, object_weight: float = 1.0) -> Tensor:
    """Mean over scales; 0 for a decoder without inner logits."""
    if not inner:
        return torch.zeros((), device=target.device)
    return torch.stack([cross_entropy(logits, target, object_weight) for logits in inner]).mean()


def decoded_loss(decoded: Decoded, target: Tensor, inner_weight: float = 1.0, object_weight: float = 1.0) -> Tensor:
    """CE(main) + weight * mean over scales of CE(inner): PFENet's loss, and each of SCL's three terms."""
    main = cross_entropy(decoded.logits, target, object_weight)
    return main + inner_weight * inner_loss(decoded.inner, target, object_weight)


def scl_loss(
    query: Decoded,
    first: Decoded,
    second: Decoded,
    query_target: Tensor,
    support_target: Tensor,
    *,
    support_weight: float = 1.0,
    inner_weight: float = 1.0,
    object_weight: float = 1.0,
    support_object_weight: float = 1.0,
) -> Tensor:
    """L_main + L_aux: the query, and the support's first and second segmentation; 3 main and 3 x scales inner terms.

    `object_weight` counts in the query's terms, `support_object_weight` in the support's. `support_weight` 0 leaves
    PFENet's loss.
    """
    loss = decoded_loss(query, query_target, inner_weight, object_weight)
    for support in (first, second):
        loss = loss + support_weight * decoded_loss(support, support_target, inner_weight, support_object_weight)
    return loss
