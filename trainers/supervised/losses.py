"""Cross-entropy with class weights and soft Dice, both deaf to pixels of 255."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.trainers.engine import Samples

Balance = Literal["none", "sqrt", "median"]


def class_weights(samples: Samples, classes: int, balance: Balance, most: int = 512) -> Tensor | None:
    """Weights float32 (classes,) from the pixel shares f of the first `most` samples; None for `none`.

    sqrt: 1 / sqrt(f); median: median(f) / f (median frequency balancing, Eigen and Fergus 2015). Both are scaled to
    mean 1 over the classes that occur and held within [0.1, 10]; classes that do not occur get 1. Samples are ordered
    by content hash, so the first are a random draw.
    """
    if balance == "none":
        return None
    pixels = np.zeros(IGNORE + 1, np.int64)
    for position in range(min(most, len(samples))):
        mask = samples.example(position).mask
        if mask is not None:
            pixels += np.bincount(mask.ravel(), minlength=IGNORE + 1)
    share = pixels[:classes] / max(int(pixels[:classes].sum()), 1)
    seen = share > 0
    weights = np.ones(classes)
    weights[seen] = 1 / np.sqrt(share[seen]) if balance == "sqrt" else np.median(share[seen]) / share[seen]
    if seen.any():
        weights[seen] /= weights[seen].mean()
    return torch.from_numpy(np.clip(weights, 0.1, 10.0)).float()


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean over judged pixels of (B, C, H, W) against int64 (B, H, W); 0 where all pixels are ignored."""
    losses = F.cross_entropy(logits.float(), target, weights, ignore_index=IGNORE, reduction="sum")
    judged = target[target != IGNORE]
    total = judged.numel() if weights is None else weights[judged].sum()
    return losses / torch.as_tensor(total, device=logits.device).clamp(min=1e-6)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, mean over the classes that occur in the batch's judged pixels; 0 where there are none."""
    judged = target != IGNORE
    classes, truth = logits.shape[1], target.masked_fill(~judged, 0)
    probabilities = logits.float().softmax(1) * judged[:, None]
    own = probabilities.gather(1, truth[:, None])  # no one-hot copy of the target: a third of the time
    overlap = probabilities.new_zeros(classes).index_add(0, truth.flatten(), own.flatten())
    pixels = torch.bincount(truth[judged], minlength=classes)
    mass = probabilities.sum((0, 2, 3)) + pixels
    losses = (1 - 2 * overlap / mass.clamp(min=1e-6)) * (pixels > 0)
    return losses.sum() / (pixels > 0).sum().clamp(min=1)
