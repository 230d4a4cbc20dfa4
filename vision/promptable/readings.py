"""Which of a promptable model's readings of a prompt is taken, and how good it is said to be."""

import torch
from torch import Tensor


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of the masks at +offset and -offset: (..., h, w) to (...), 0 where both are empty (SAM, appendix D)."""
    inner = (logits > offset).flatten(-2).sum(dim=-1)
    outer = (logits > -offset).flatten(-2).sum(dim=-1)
    return inner / outer.clamp(min=1)


def best_reading(logits: Tensor, ious: Tensor, real: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """Of each prompt's M masks (P, M, h, w) that with the highest predicted IoU (P, M), held to 0..1, times stability;
    the first of equals. `real` is the part of `logits` that shows the photo. Returns (P, h, w) and scores (P).
    """
    quality = ious.clamp(0, 1) * stability(real, offset)
    chosen = quality.argmax(dim=1)
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, chosen], quality[rows, chosen]
