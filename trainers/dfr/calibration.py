"""When two cells are of one class: the learned affinity calibrated on pairs of drawn cells, and held against colours.

Ours; the paper's kernel is not known. A raw affinity exp(-d) says too little: the head separates classes by margins
that it finds on its way, so the distance at which two cells stop being of one class is read off the strokes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskmill.trainers.dfr.consistency import draw_labelled

DECAY = 0.95  # of the running means: about 20 steps
SPREAD = 1e-4  # least variance of distances


@dataclass(frozen=True)
class DrawnPairs:
    """Pairs of drawn cells, of all images of a batch: distances d (P,) of the embedding, squared differences of colour
    (P,), and whether both are of one class (P,).
    """

    distances: Tensor
    colours: Tensor
    alike: Tensor


@torch.no_grad()
def drawn_pairs(embedding: Tensor, image: Tensor, labels: Tensor, count: int) -> DrawnPairs:
    """All pairs among `count` random drawn cells of each image, balanced over its classes, at any distance.

    `embedding` (N, D, h, w), `image` (N, 3, h, w), `labels` int64 (N, h, w), 255 = not drawn.
    """
    found = []
    for features, pixels, ids in zip(embedding.flatten(2), image.flatten(2), labels.flatten(1), strict=True):
        drawn = draw_labelled(ids, count)
        upper = torch.triu_indices(len(drawn), len(drawn), offset=1, device=ids.device)
        first, second = drawn[upper[0]], drawn[upper[1]]
        found.append(
            (
                (features[:, first] - features[:, second]).abs().mean(dim=0),
                (pixels[:, first] - pixels[:, second]).square().sum(dim=0),
                ids[first] == ids[second],
            )
        )
    distances, colours, alike = (torch.cat(part) for part in zip(*found, strict=True))
    return DrawnPairs(distances, colours, alike)


class Calibration(nn.Module):
    """P(one class | d) = sigmoid(gamma (threshold - d)), both from a linear discriminant of the distances of pairs of
    one class and of different ones; and the ratio of mean weights on the two, of a kernel with this affinity and of
    colours alone.

    Holds running means of what `observe` is shown and nothing that is trained; a checkpoint keeps them.
    """

    seen: Tensor  # (2,): weight of what was observed, of different pairs and of alike ones
    sums: Tensor  # (2, 4): of d, d^2, the kernel's weight and that of colours

    def __init__(self, colour_sigma: float) -> None:
        super().__init__()
        self.colour_sigma = colour_sigma
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("sums", torch.zeros(2, 4))

    @torch.no_grad()
    def observe(self, pairs: DrawnPairs, weigh: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> None:
        """Take in the pairs of a step; a step without pairs of a kind leaves that kind as it is. `weigh` makes the
        kernel's weights of those by colour and the learned affinity.
        """
        colour = torch.exp(-pairs.colours / (2 * self.colour_sigma**2))
        kernel = weigh(colour, self(pairs.distances))
        values = torch.stack([pairs.distances, pairs.distances**2, kernel, colour], dim=1)
        for kind, members in enumerate((~pairs.alike, pairs.alike)):
            if members.any():
                self.seen[kind] = DECAY * self.seen[kind] + 1 - DECAY
                self.sums[kind] = DECAY * self.sums[kind] + (1 - DECAY) * values[members].mean(dim=0)

    def forward(self, distances: Tensor) -> Tensor:
        """Affinity of distances, shaped as they are; a half everywhere before both kinds of pairs were seen."""
        return torch.sigmoid(self.gamma * (self.threshold - distances))

    @property
    def means(self) -> Tensor:
        """(2, 4): running means of different and of alike pairs."""
        return self.sums / self.seen.clamp_min(1e-12)[:, None]

    @property
    def gamma(self) -> Tensor:
        """(mean d of different pairs - that of alike ones) / their common variance; never below 0."""
        means = self.means
        variance = (means[:, 1] - means[:, 0] ** 2).mean().clamp_min(SPREAD)
        gap: Tensor = (means[0, 0] - means[1, 0]).clamp_min(0) * (self.seen > 0).all()
        return gap / variance

    @property
    def threshold(self) -> Tensor:
        """The distance half-way between both means."""
        return self.means[:, 0].mean()

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """Mean weight on alike pairs by mean weight on different ones, of the kernel and of colours; 1 = blind, and
        where a kind was never seen.
        """
        different, alike = self.means
        ratio = torch.where((self.seen > 0).all(), alike[2:] / different[2:].clamp_min(1e-6), torch.ones(2).to(alike))
        return ratio[0], ratio[1]

    @property
    def ready(self) -> bool:
        """Whether the kernel tells classes apart better than colours do."""
        kernel, colour = self.ratios
        return bool((kernel > colour) & (self.gamma > 0))
