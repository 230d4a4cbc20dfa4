"""WeCLIP's refinement module (RFM) and the labels that it leads to: attention maps chosen and combined with the
decoder's affinity, class maps spread by them, PAR, argmax. Nothing here carries a gradient to the decoder.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.vision.refine import par

Filter = Literal["signed", "absolute", "none"]
PLAIN_MAPS = 8  # attention maps that are averaged before the kick-in
COUNT_EPSILON = 1e-5
SLACK = 1e-6  # relative, so that rounding never drops a map that equals the mean


def plain_attention(maps: Sequence[Tensor]) -> Tensor:
    """Mean (B, n, n) of the last eight attention maps (B, n, n): what is spread with before the kick-in."""
    return torch.stack(list(maps[-PLAIN_MAPS:])).mean(dim=0)


def kept_maps(maps: Tensor, affinity: Tensor, filter: Filter) -> Tensor:
    """Which of m maps (B, m, n, n) to keep, given A_f (B, n, n): bool (B, m).

    `signed` (released code): D_l = sum(A_f - A^l), keep l if D_l <= mean(D). A_f adds the same to every D_l, so this
    keeps the maps of at least average mass, whatever the decoder says; it is computed from the mass alone.
    `absolute` (paper): S_l = sum|A_f - A^l|, keep l if S_l < mean(S), or all maps where all are alike.
    """
    if filter == "none":
        return torch.ones(maps.shape[:2], dtype=torch.bool, device=maps.device)
    if filter == "signed":
        mass = maps.sum(dim=(2, 3))
        mean = mass.mean(dim=1, keepdim=True)
        return mass >= mean - SLACK * mean.abs()
    distance = torch.stack([(affinity - maps[:, level]).abs().sum(dim=(1, 2)) for level in range(maps.shape[1])], dim=1)
    mean = distance.mean(dim=1, keepdim=True)
    kept = distance < mean - SLACK * mean.abs()
    return kept | ~kept.any(dim=1, keepdim=True)


@torch.no_grad()
def refined_attention(
    maps: Sequence[Tensor], affinity_logits: Tensor, candidates: int, filter: Filter
) -> tuple[Tensor, Tensor]:
    """RFM: A_f times the mean of the kept maps among the last `candidates`: (B, n, n), and which were kept (B, m)."""
    stack = torch.stack(list(maps[-candidates:]), dim=1).float()
    affinity = affinity_logits.detach().sigmoid()
    kept = kept_maps(stack, affinity, filter)
    weights = kept.float() / (kept.sum(dim=1, keepdim=True) + COUNT_EPSILON)
    return affinity * (weights[:, :, None, None] * stack).sum(dim=1), kept


@torch.no_grad()
def pseudo_labels(
    maps: Tensor,
    pair_image: Sequence[int],
    pair_class: Sequence[int],
    images: Tensor,
    background: int,
    *,
    iterations: int,
    dilations: tuple[int, ...],
    stride: int = 1,
    ignore_below: float | None = None,
    background_power: float = 1.0,
) -> Tensor:
    """Labels int64 (B, H, W) from class maps (N, h, w) of (image, class) pairs and the crops (B, 3, H, W).

    Maps are resized to the crop, the background is (1 - their maximum)^background_power, PAR runs on the stack of each
    image, and every pixel takes the class of its largest map; an image without pairs is all background. With
    `ignore_below`, pixels whose largest share of the stack is lower become 255. With `stride` > 1 all of this runs on
    crops shrunk by it, and the labels are enlarged by nearest neighbour.

    Stacks are padded to the largest number of classes: PAR treats maps one by one, and padding never wins.
    """
    batch, whole = len(images), (images.shape[2], images.shape[3])
    size = (-(-whole[0] // stride), -(-whole[1] // stride))
    if stride > 1:
        images = F.interpolate(images, size, mode="area")
    counts = [pair_image.count(image) for image in range(batch)]
    stack = torch.zeros(batch, max([1, *counts]) + 1, *size, device=images.device)
    ids = torch.full((batch, stack.shape[1]), background, device=images.device)
    if len(pair_image):
        full = F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
        slots = [pair_image[:row].count(image) + 1 for row, image in enumerate(pair_image)]
        stack[list(pair_image), slots] = full
        ids[list(pair_image), slots] = torch.tensor(list(pair_class), device=images.device)
    stack[:, 0] = (1 - stack[:, 1:].amax(dim=1)).clamp_min(0) ** background_power
    if iterations:
        stack = par(images, stack, iterations=iterations, dilations=dilations)
    for image, count in enumerate(counts):
        stack[image, count + 1 :] = float("-inf")
    best, slot = stack.max(dim=1)
    labels = ids.gather(1, slot.flatten(1)).view_as(slot)
    if ignore_below is not None:
        share = best / stack.clamp_min(0).sum(dim=1).clamp_min(1e-6)
        labels = labels.masked_fill(share < ignore_below, IGNORE)
    if size == whole:
        return labels
    return F.interpolate(labels[:, None].float(), whole, mode="nearest")[:, 0].long()
