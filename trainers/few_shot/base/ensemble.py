"""BAM's ensemble: what a segmenter of the base classes finds is background for a class that training never showed.

Source: C. Lang et al., "Learning What Not to Segment: A New Perspective on Few-Shot Segmentation" (BAM), CVPR 2022, as
HDMNet and PI-CLIP take it over. The Gram matrices of a query and of its supports say how alike both look; their
distance enters the merge as one number an episode.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from maskmill.trainers.few_shot.base.parts import resize

EPSILON = 1e-7
HIDDEN = 2  # of the network that weighs several supports
BINS = (1, 2, 3, 6)

GramShots = Literal["bam", "pi_clip"]


class PyramidHead(nn.Module):
    """PSPNet's head: features (B, C, h, w) and their means over 1, 4, 9 and 36 parts to logits (B, classes, h, w)."""

    def __init__(self, channels: int, classes: int, width: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.pools = nn.ModuleList(_pool(channels, channels // len(BINS), cells) for cells in BINS)
        self.classify = nn.Sequential(
            nn.Conv2d(channels + len(BINS) * (channels // len(BINS)), width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[2], x.shape[3])
        logits: Tensor = self.classify(torch.cat([x, *(resize(pool(x), grid) for pool in self.pools)], dim=1))
        return logits


def _pool(channels: int, width: int, cells: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, 1, bias=False)
    return nn.Sequential(nn.AdaptiveAvgPool2d(cells), conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def gram(features: Tensor) -> Tensor:
    """Cosines between the channels of (B, C, h, w): (B, C, C)."""
    flat = features.flatten(2)
    norms = flat.norm(dim=2, keepdim=True)
    cosines: Tensor = flat @ flat.transpose(1, 2) / (norms @ norms.transpose(1, 2) + EPSILON)
    return cosines


@torch.no_grad()
def gram_distance(query: Tensor, supports: Tensor) -> Tensor:
    """How unlike two images look: (B, C, h, w) and (B, K, C, h', w') to (B, K), the norm of the difference of their
    Gram matrices as a share of the norm of a matrix of ones.
    """
    own = gram(query)
    return torch.stack([(own - gram(s)).norm(dim=(1, 2)) for s in supports.unbind(1)], dim=1) / own.shape[1]


class Ensemble(nn.Module):
    """Merges the probabilities of the few-shot network with those of the base learner.

    `weighing` of several supports' distances: bam = a small network of the sorted distances, each weight given back to
    its support; pi_clip = as its release: that network keeps the weights that it was drawn with, and its weights stay
    in sorted order.
    """

    def __init__(self, shots: int, weighing: GramShots = "bam") -> None:
        super().__init__()
        self.weighing = weighing
        self.gram_merge, self.cls_merge = _merge(), _merge()
        self.reweigh: nn.Sequential | None = None
        if shots > 1:
            self.reweigh = nn.Sequential(nn.Conv2d(shots, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, shots, 1))
            self.reweigh.requires_grad_(weighing == "bam")

    def forward(self, logits: Tensor, base: Tensor, distances: Tensor, left_out: Tensor | None = None) -> Tensor:
        """Scores of background and object (B, 2, h, w), not normalised: `logits` (B, 2, h, w) of the few-shot network,
        `base` (B, 1 + base classes, h', w') of the base learner, `distances` (B, K). `left_out` int64 (B,): the base
        class that is being asked for, whose probability is no background; 0 = none.
        """
        known = base.softmax(dim=1)
        if left_out is not None:
            places = torch.arange(known.shape[1], device=known.device)
            known = known * (places[None] != left_out[:, None])[..., None, None]
        shares = logits.softmax(dim=1)
        background, object_ = shares[:, :1], shares[:, 1:]
        alike = self._distance(distances)[:, None, None, None].expand_as(object_)
        background, object_ = (self.gram_merge(torch.cat([part, alike], dim=1)) for part in (background, object_))
        others = resize(known[:, 1:].sum(dim=1, keepdim=True), (logits.shape[2], logits.shape[3]))
        return torch.cat([self.cls_merge(torch.cat([background, others], dim=1)), object_], dim=1)

    def _distance(self, distances: Tensor) -> Tensor:
        """One distance an episode, (B, K) to (B,)."""
        if self.reweigh is None:
            return distances.mean(dim=1)
        ordered, order = distances.sort(dim=1)
        weights = self.reweigh(ordered[..., None, None])[..., 0, 0]
        if self.weighing == "bam":
            weights = weights.gather(1, order.argsort(dim=1))
        weighed: Tensor = (weights.softmax(dim=1) * distances).sum(dim=1)
        return weighed


def _merge() -> nn.Conv2d:
    """1x1 of two maps to one, that begins by taking the first alone."""
    merge = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        merge.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    return merge
