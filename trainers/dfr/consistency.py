"""What trains the feature consistency head: pairs of labelled pixels, near and far, and smoothness along colours.

Source: A2GNN (Zhang et al. 2021) for the near pairs and the smoothness; long pairs because strokes of different classes
hardly ever come near each other: without them every pixel ends up alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from maskmill.data_contracts import IGNORE
from maskmill.vision.windows import partner_values

EPSILON = 1e-5


@dataclass(frozen=True)
class PairSets:
    """Which pairs are both background, the same foreground class, or different: bool, shaped as the distances."""

    background: Tensor
    foreground: Tensor
    different: Tensor

    @classmethod
    def of(cls, first: Tensor, second: Tensor, background_id: int | None) -> "PairSets":
        """From two broadcastable label maps; a pair with an end of 255 is in none."""
        known = (first != IGNORE) & (second != IGNORE)
        same = known & (first == second)
        is_background = same & (first == (-1 if background_id is None else background_id))
        return cls(is_background, same & ~is_background, known & (first != second))


def pair_loss(distances: Tensor, pairs: PairSets) -> Tensor:
    """1/4 mean_B(-log A) + 1/4 mean_G(-log A) + 1/2 mean_X(-log(1 - A)), A = exp(-d); an empty set counts 0."""
    total = distances.new_zeros(())
    for weight, members in ((0.25, pairs.background), (0.25, pairs.foreground), (0.5, pairs.different)):
        affinity = torch.exp(-distances[members])
        alike = 1 - affinity if members is pairs.different else affinity
        total = total - weight * torch.log(alike + EPSILON).sum() / (alike.numel() + EPSILON)
    return total


def near_pairs(labels: Tensor, radius: int, background_id: int | None) -> PairSets:
    """Pairs within the window of labels int64 (N, h, w), as pair stacks."""
    return PairSets.of(labels.unsqueeze(1), partner_values(labels, radius, IGNORE), background_id)


def smoothness(distances: Tensor, colour: Tensor, valid: Tensor, radius: int) -> Tensor:
    """sum over valid pairs of S_ij d_ij, divided by their number; `colour` is the static kernel, a pair stack."""
    both = valid.unsqueeze(1) & partner_values(valid, radius, False)
    return torch.where(both, colour * distances, 0.0).sum() / both.sum().clamp(min=1)


def draw_labelled(labels: Tensor, count: int) -> Tensor:
    """Positions of at most `count` labelled pixels of one image int64 (h w,), balanced over the classes present; drawn
    with torch's generator.
    """
    classes = torch.unique(labels)
    classes = classes[classes != IGNORE]
    if not len(classes) or count < 2:
        return labels.new_zeros(0)
    share = max(1, count // len(classes))
    places = [torch.nonzero(labels == c)[:, 0] for c in classes]
    return torch.cat([place[torch.randperm(len(place), device=place.device)[:share]] for place in places])


def long_pair_loss(embedding: Tensor, labels: Tensor, count: int, background_id: int | None) -> Tensor:
    """`pair_loss` over all pairs of `count` random labelled pixels of each image, at any distance; mean over images.

    `embedding` (N, D, h, w), `labels` int64 (N, h, w).
    """
    total = embedding.new_zeros(())
    for features, ids in zip(embedding.flatten(2), labels.flatten(1), strict=True):
        drawn = draw_labelled(ids, count)
        if len(drawn) < 2:
            continue
        points = features[:, drawn].T.contiguous()
        upper = torch.triu_indices(len(drawn), len(drawn), offset=1, device=points.device)
        distances = torch.cdist(points, points, p=1.0)[upper[0], upper[1]] / points.shape[1]
        total = total + pair_loss(distances, PairSets.of(ids[drawn[upper[0]]], ids[drawn[upper[1]]], background_id))
    return total / len(embedding)


@torch.no_grad()
def merged_targets(strokes: Tensor, p: Tensor, threshold: float) -> Tensor:
    """Strokes where drawn, else the predicted class where it is at least `threshold` sure, else 255: int64 (N, h, w).

    `strokes` int64 (N, h, w), `p` (N, C, h, w).
    """
    best, labels = p.max(dim=1)
    sure = labels.masked_fill(best < threshold, IGNORE)
    return torch.where(strokes != IGNORE, strokes, sure)


@torch.no_grad()
def affinity_means(distances: Tensor, pairs: PairSets) -> tuple[Tensor, Tensor]:
    """Mean affinity within classes and across them: across above 0.9 means that the head has collapsed (all alike),
    within near 0 that the kernel is dead. NaN-free: 0 where there are no such pairs.
    """
    affinity = torch.exp(-distances)
    within = pairs.background | pairs.foreground
    inner = (affinity * within).sum() / within.sum().clamp(min=1)
    return inner, (affinity * pairs.different).sum() / pairs.different.sum().clamp(min=1)
