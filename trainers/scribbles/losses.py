"""Cross-entropy on drawn pixels only."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.trainers.engine import widened

Pce = Literal["nll", "softmax_of_prob"]


def partial_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (N, C, H, W) over the pixels of int64 (N, H, W) that are not 255; 0 where all are."""
    total = F.cross_entropy(widened(logits), labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def balanced_pce(logits: Tensor, labels: Tensor, kind: Pce = "nll") -> Tensor:
    """Mean over foreground pixels plus mean over background pixels of the whole batch (SCWSSOD): however many pixels
    either has, both weigh the same; a class without pixels counts 0.

    `logits` (N, 1, H, W) of the foreground, `labels` int64 (N, H, W) of 0, 1 and 255. `softmax_of_prob` is the
    release's: a softmax over the two probabilities, log(1 + exp(1 - 2 p)) on foreground, which never reaches 0.
    """
    z = widened(logits[:, 0])
    if kind == "nll":
        foreground, background = F.softplus(-z), F.softplus(z)
    else:
        margin = 2 * z.sigmoid() - 1
        foreground, background = F.softplus(-margin), F.softplus(margin)
    fg, bg = labels == 1, labels == 0
    return (foreground * fg).sum() / fg.sum().clamp(min=1) + (background * bg).sum() / bg.sum().clamp(min=1)
