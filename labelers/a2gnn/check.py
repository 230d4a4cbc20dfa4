"""Consistency check: seeds of a box that look unlike the box's own points are taken away.

The released code compares cosines of non-negative features with 0: none is below, so it never takes a seed
(`released`). Two variants work: cosines of features minus the image's mean (`centred`), and the lowest quantile of each
box (`quantile`). They never take a box's last seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE
from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.losses import BoxTable, Points

CHUNK = 65_536
Sample = Callable[[Tensor, Tensor, Tensor], Tensor]  # image, y, x (P,) to features (P, D)


@dataclass(frozen=True, eq=False)
class Pixels:
    """Seeds that lie in a box of their own class, once for each such box: `box`, `y`, `x`, all (P,)."""

    box: Tensor
    y: Tensor
    x: Tensor


def make_pixels(seeds: Tensor, boxes: BoxTable) -> Pixels:
    """The pairs of seed and box in a stack of seeds int64 (B, H, W)."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for i, (y0, x0, y1, x1) in enumerate(boxes.corners):
        y, x = torch.nonzero(seeds[boxes.image[i], y0:y1, x0:x1] == boxes.channel[i], as_tuple=True)
        parts.append((torch.full_like(y, i), y + y0, x + x0))
    empty = torch.zeros(0, dtype=torch.long, device=seeds.device)
    columns = [torch.cat([part[k] for part in parts] or [empty]) for k in range(3)]
    return Pixels(columns[0], columns[1], columns[2])


def likeness(pixels: Pixels, points: Points, boxes: BoxTable, sample: Sample, centre: Tensor | None) -> Tensor:
    """Cosine (P,) of each seed's feature with the mean feature of its box's points; `centre` (B, D) is subtracted
    first.
    """
    features = sample(boxes.image[points.box], points.y, points.x)
    counts = torch.bincount(points.box, minlength=len(boxes)).clamp(min=1)
    sums = torch.zeros(len(boxes), features.shape[1], device=features.device).index_add_(0, points.box, features)
    prototypes = sums / counts[:, None]
    if centre is not None:
        prototypes = prototypes - centre[boxes.image]
    scores = []
    for start in range(0, len(pixels.box), CHUNK):
        box = pixels.box[start : start + CHUNK]
        image = boxes.image[box]
        own = sample(image, pixels.y[start : start + CHUNK], pixels.x[start : start + CHUNK])
        own = own if centre is None else own - centre[image]
        scores.append(torch.cosine_similarity(own, prototypes[box], dim=1))
    return torch.cat(scores) if scores else prototypes.new_zeros(0)


def doubtful(scores: Tensor, box: Tensor, count: int, config: Config) -> Tensor:
    """Bool (P,): seeds to take away."""
    if config.check == "released":
        return scores < config.check_threshold
    if config.check == "centred":
        below = scores < config.check_threshold
    else:
        below = torch.zeros_like(scores, dtype=torch.bool)
        for i in range(count):
            own = box == i
            if own.any():
                below[own] = scores[own] < torch.quantile(scores[own], max(config.check_threshold, 0.0))
    spared = torch.bincount(box[~below], minlength=count) > 0
    return below & spared[box]


def remove_seeds(
    seeds: Tensor,
    pixels: Pixels,
    points: Points,
    boxes: BoxTable,
    sample: Sample,
    centre: Tensor | None,
    config: Config,
) -> None:
    """Set doubtful seeds of the stack (B, H, W) to 255, in place."""
    image = boxes.image[pixels.box]
    alive = seeds[image, pixels.y, pixels.x] != IGNORE
    left = Pixels(pixels.box[alive], pixels.y[alive], pixels.x[alive])
    gone = doubtful(likeness(left, points, boxes, sample, centre), left.box, len(boxes), config)
    seeds[image[alive][gone], left.y[gone], left.x[gone]] = IGNORE
