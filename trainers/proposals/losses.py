"""Losses of the proposal network: which cell answers for which object, its mask, its box, its score, its descriptor."""

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.vision.instances import GRAIN, Proposals, cell_centres, pool, shrink

CENTRAL = 0.3  # cells within this share of a box side from its centre answer for it
MARGIN = 0.25  # a mask is judged inside its box grown by this
BETA = 2.0  # focusing power of the score's loss


def assign(boxes: Tensor, shown: Tensor, rows: int, columns: int) -> Tensor:
    """The slot that each cell answers for, int64 (B, rows * columns); -1 for none.

    Central cells of a box do, and the cell nearest to its centre always; where boxes share a cell the smaller wins.
    """
    centres = cell_centres(rows, columns, boxes.device)
    middle, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2])
    away = (centres[None, None] - middle[:, :, None]).abs()  # (B, M, cells, 2)
    central = (away < CENTRAL * sides[:, :, None]).all(-1)
    nearest = F.one_hot(away.square().sum(-1).argmin(-1), rows * columns).bool()
    claimed = (central | nearest) & shown[..., None]
    areas = sides.prod(-1)[..., None].masked_fill(~claimed, torch.inf)
    smallest, slot = areas.min(1)
    return slot.masked_fill(smallest.isinf(), -1)


def proposal_losses(found: Proposals, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`mask` (cross-entropy + Dice inside grown boxes), `box` (1 - GIoU) and `score` (quality focal loss)."""
    rows, columns = found.scores.shape[-2:]
    slots = assign(batch["boxes"], batch["shown"], rows, columns)
    image, cell = (slots >= 0).nonzero(as_tuple=True)
    slot = slots[image, cell]
    targets, boxes = batch["objects"][image, slot], batch["boxes"][image, slot]
    logits = found.masks()[image, cell]
    judged = batch["judged"][image] * window(boxes, logits.shape[-2:])
    quality = torch.zeros_like(found.scores, dtype=torch.float32).flatten(1)  # also under autocast
    quality[image, cell] = mask_quality(logits.detach(), targets, judged)
    return {
        "mask": mask_loss(logits, targets, judged),
        "box": (1 - generalised_iou(found.boxes()[image, cell], boxes)).mean(),
        "score": score_loss(found.scores.flatten(1), quality, len(cell)),
    }


def window(boxes: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
    """1 inside boxes grown by MARGIN on the prototype grid, float32 (n, H / 4, W / 4)."""
    grown = MARGIN * (boxes[:, 2:] - boxes[:, :2]) + GRAIN
    low, high = boxes[:, :2] - grown, boxes[:, 2:] + grown
    y, x = ((torch.arange(length, device=boxes.device) + 0.5) * GRAIN for length in grid)
    across = (x > low[:, :1]) & (x < high[:, :1])
    down = (y > low[:, 1:]) & (y < high[:, 1:])
    return (down[:, :, None] & across[:, None, :]).float()


def mask_loss(logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """Mean over objects of cross-entropy plus 1 - Dice on judged pixels; targets are shares in [0, 1]."""
    weight = judged.sum((1, 2)).clamp(min=1)
    entropy = (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * judged).sum((1, 2)) / weight
    shares, truth = logits.sigmoid() * judged, targets * judged
    dice = 1 - (2 * (shares * truth).sum((1, 2)) + 1) / ((shares + truth).sum((1, 2)) + 1)
    return (entropy + dice).mean()


def mask_quality(logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """IoU of thresholded masks on judged pixels, (n,)."""
    mask, truth = (logits > 0) & (judged > 0), (targets > 0.5) & (judged > 0)
    return (mask & truth).sum((1, 2)) / (mask | truth).sum((1, 2)).clamp(min=1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes (n, 4) with (n, 4)."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return shared / union.clamp(min=1) - (hull - union) / hull.clamp(min=1)


def score_loss(logits: Tensor, quality: Tensor, answering: int) -> Tensor:
    """Quality focal loss (Li et al., NeurIPS 2020): |q - s|^2 times cross-entropy, over the answering cells."""
    losses = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    weights = (quality - logits.detach().sigmoid()).abs() ** BETA
    return (losses * weights).sum() / max(answering, 1)


def descriptor_loss(found: Proposals, batch: dict[str, Tensor], temperature: float = 0.1) -> Tensor:
    """InfoNCE between the two crops of each pair: the same object against other objects and against surroundings.

    Half of the pairs are pooled under the mask, as in tracking, and half under the whole box, as the Siamese network
    sees its patches.
    """
    shares = shrink(batch["objects"][:, 0], found.features)
    boxes = shrink(window(batch["boxes"][:, 0], batch["objects"].shape[-2:]), found.features)
    boxed = (torch.arange(len(shares), device=shares.device) // 2 % 2 == 0)[:, None, None]
    weights = torch.where(boxed, boxes, shares) + 1e-4
    objects = torch.cat([pool(f, w[None]) for f, w in zip(found.features, weights, strict=True)])
    around = torch.cat([pool(f, (1 - w)[None]) for f, w in zip(found.features, boxes, strict=True)])
    one, other = objects[0::2], objects[1::2]
    truth = torch.arange(len(one), device=one.device)
    forward = torch.cat([one @ other.T, (one * around[1::2]).sum(1, keepdim=True)], dim=1) / temperature
    backward = torch.cat([other @ one.T, (other * around[0::2]).sum(1, keepdim=True)], dim=1) / temperature
    return (F.cross_entropy(forward, truth) + F.cross_entropy(backward, truth)) / 2
