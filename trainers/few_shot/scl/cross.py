"""CGM: supports judged by how well their vectors segment all supports, and query predictions weighted by that.

Source: SCL, CVPR 2021. Needs no training beyond one shot and no label of the query, so the scores can also rank
exemplars.
"""

import logging
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.trainers.few_shot.base import Decoded, PyramidDecoder
from maskmill.trainers.few_shot.scl.guided import Guide, InterScale, Split, guide

logger = logging.getLogger("maskmill.few_shot")

CrossIou = Literal["both", "foreground"]


def mask_iou(predicted: Tensor, target: Tensor, kind: CrossIou) -> Tensor:
    """IoU of each row: predicted (N, H, W) of 0 and 1, target (N, H, W) of 0, 1 and 255 (left out), to (N,).

    `both` (PFENet version): mean of background and object; `foreground` (CANet version). A target without an object
    scores 0.
    """
    judged = target != IGNORE
    front = _iou((predicted == 1) & judged, (target == 1) & judged)
    out = front if kind == "foreground" else (front + _iou((predicted == 0) & judged, (target == 0) & judged)) / 2
    return out * ((target == 1).flatten(1).any(dim=1))


def _iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).flatten(1).sum(dim=1) / (a | b).flatten(1).sum(dim=1).clamp(min=1)


@torch.no_grad()
def support_scores(
    decoder: PyramidDecoder,
    features: Tensor,
    masks: Tensor,
    targets: Tensor,
    kind: CrossIou,
    inter_scale: InterScale,
    split: Split = "hard",
) -> tuple[Tensor, Guide]:
    """U (K,) of one support set, and its guides: features (K, C, h, w), masks (K, 1, h, w), targets (K, H, W).

    U^k = mean over all supports j (k among them) of IoU(D(F^j; vectors of k), M^j), at the size of the targets; 0 for a
    support whose object vanishes at the grid.
    """
    guides = guide(decoder, features, masks, split)
    levels = guides.first.levels if inter_scale == "initial" else None
    scores = []
    for k in range(len(features)):
        vectors = tuple(v[k : k + 1].expand(len(features), -1, -1, -1) for v in guides.vectors)
        crossed: Decoded = decoder(features, vectors, path="support", levels=levels)
        full = F.interpolate(crossed.logits, targets.shape[1:], mode="bilinear", align_corners=True)
        scores.append(mask_iou(full.argmax(dim=1), targets, kind).mean())
    shows = masks.flatten(1).amax(dim=1) > 0
    if not shows.all():
        logger.warning("%d of %d supports show no object at the grid and count 0", int((~shows).sum()), len(shows))
    return torch.stack(scores) * shows, guides


def weighted_sum(logits: Tensor, scores: Tensor) -> Tensor:
    """(1/K) sum_k U^k Q^k: logits (K, B, 2, h, w) or (K, 2, h, w), scores (K,)."""
    weights = scores.view(-1, *[1] * (logits.ndim - 1))
    return (logits * weights).mean(dim=0)
