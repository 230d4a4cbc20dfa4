"""Soft IoU losses of saliency maps."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from maskmill.trainers.engine import widened

EPS = 1e-5


def soft_iou(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - intersection / union (N,) of shares `predicted`, `target` (N, 1, H, W) in [0, 1], where `valid` is 1."""
    both = (predicted * target * valid).sum(dim=(1, 2, 3))
    either = ((predicted + target) * valid).sum(dim=(1, 2, 3))
    return 1 - both / (either - both + EPS)


def map_loss(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """`soft_iou` of the object plus that of the background, averaged over images: 0 to 2."""
    return (soft_iou(predicted, target, valid) + soft_iou(1 - predicted, 1 - target, valid)).mean()


def deep_loss(logits: Sequence[Tensor], target: Tensor, valid: Tensor) -> Tensor:
    """The sum of `map_loss` over the decoder's levels, each enlarged to the size of `target` (N, 1, H, W)."""
    size = target.shape[2:]
    levels = [F.interpolate(widened(one), size, mode="bilinear", align_corners=False) for one in logits]
    losses = [map_loss(one.sigmoid(), target, valid) for one in levels]
    return sum(losses[1:], losses[0])
