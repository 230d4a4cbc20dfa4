"""PCS, the image score of SDS: how much CLIP's class distribution changes when the image is perturbed.

Tang et al., "A Training-Free Synthetic Data Selection Method for Semantic Segmentation", AAAI 2025 (arXiv
2501.15201). An image whose reading hardly changes had no object structure to lose. The constants of the released
code (a grid of 4 x 4 squares) speak of shuffled tiles; what it permutes is the three colour channels of the
normalised image, for it takes the length of the permutation from the wrong axis. Both are here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.curation.sds.config import ImageScore, Perturbation
from maskmill.data_contracts import sample_seed


def draw_orders(kind: Perturbation, seed: int, sample_id: str, rounds: int, grid: int) -> NDArray[np.int64]:
    """`rounds` permutations for one sample: of its tiles, int64 (rounds, grid*grid), or of its channels (rounds, 3)."""
    if kind == "tiles":
        return tile_permutations(seed, sample_id, rounds, grid)
    return channel_permutations(seed, sample_id, rounds)


def tile_permutations(seed: int, sample_id: str, rounds: int, grid: int) -> NDArray[np.int64]:
    """`rounds` permutations of grid*grid tiles for one sample, int64 (rounds, grid*grid), none of which leaves all
    tiles in their place. A larger `rounds` only appends.
    """
    rng = np.random.default_rng(sample_seed(seed, sample_id, "pcs"))
    return np.stack([_no_identity(rng, grid * grid) for _ in range(rounds)])


def _no_identity(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    while (order := rng.permutation(n)).tolist() == list(range(n)):
        pass
    return order


def channel_permutations(seed: int, sample_id: str, rounds: int) -> NDArray[np.int64]:
    """`rounds` permutations of three channels, int64 (rounds, 3). As in the release one in six is the identity, which
    gives a gap of 0 and drops its image by chance.
    """
    rng = np.random.default_rng(sample_seed(seed, sample_id, "pcs channels"))
    return np.stack([rng.permutation(3) for _ in range(rounds)])


def perturb(kind: Perturbation, image: Tensor, order: NDArray[np.int64]) -> Tensor:
    """A normalised image (3, H, W) with its tiles or its channels in another order."""
    return shuffle_tiles(image, order) if kind == "tiles" else image[torch.from_numpy(order)]


def shuffle_tiles(image: Tensor, permutation: NDArray[np.int64]) -> Tensor:
    """Rearrange an image (C, H, W): tile i of the result is tile permutation[i] of the input, row by row.

    Raises:
        ValueError: the tiles do not form a square grid that divides both sides.
    """
    grid = round(len(permutation) ** 0.5)
    channels, height, width = image.shape
    if grid * grid != len(permutation) or height % grid or width % grid:
        raise ValueError(f"{len(permutation)} tiles do not divide an image of {height}x{width} into a square grid")
    tiles = image.reshape(channels, grid, height // grid, grid, width // grid).permute(1, 3, 0, 2, 4).flatten(0, 1)
    tiles = tiles[torch.from_numpy(permutation)].reshape(grid, grid, channels, height // grid, width // grid)
    return tiles.permute(2, 0, 3, 1, 4).reshape(channels, height, width)


def entropy(log_p: Tensor) -> Tensor:
    """Shannon entropy in nats over the last axis of log-probabilities; -inf entries (texts that do not compete)
    count as 0.
    """
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(dim=-1)


@dataclass(frozen=True)
class Readings:
    """CLIP's readings of B images, R shuffled copies of each, over T texts: unit embeddings and log-probabilities.

    `own` bool (B, T) marks each image's own classes among the texts.
    """

    embeddings: Tensor
    log_p: Tensor
    mixed_embeddings: Tensor
    mixed_log_p: Tensor
    own: Tensor

    @property
    def gaps(self) -> Tensor:
        """PCS as published, mean over shuffles of |H - H'|: (B,)."""
        return (entropy(self.log_p) - entropy(self.mixed_log_p)).abs().mean(dim=0)


def image_scores(kind: ImageScore, readings: Readings) -> Tensor:
    """One score per image (B,), higher = more trustworthy; all are means over the R shuffles.

    pcs: the entropy gap, as published. drop: by how much the probability of the image's own classes falls (signed).
    divergence: Kullback-Leibler divergence of the shuffled from the original distribution. shift: distance 1 - cosine
    between the embeddings, which needs no text. evidence: shift, half of it weighted by the probability of the own
    classes: an image must have a structure to lose, and is trusted more when it shows what it is said to show.
    """
    if kind == "pcs":
        return readings.gaps
    if kind == "divergence":
        gap = torch.where(readings.log_p.isfinite(), readings.log_p - readings.mixed_log_p, 0.0)
        return (readings.log_p.exp() * gap).sum(dim=-1).mean(dim=0)
    own = _mass(readings.log_p, readings.own)
    if kind == "drop":
        return (own - _mass(readings.mixed_log_p, readings.own)).mean(dim=0)
    # Half the squared distance of unit vectors is 1 - cosine, and exactly zero for equal ones.
    shift = (readings.embeddings - readings.mixed_embeddings).square().sum(dim=-1).mean(dim=0) / 2
    return shift if kind == "shift" else shift * (1 + own) / 2


def _mass(log_p: Tensor, own: Tensor) -> Tensor:
    """Probability of the own classes together: (..., B, T), bool (B, T) -> (..., B)."""
    return (log_p.exp() * own).sum(dim=-1)
