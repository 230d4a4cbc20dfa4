"""PCS, the image score of SDS: how much CLIP's class distribution changes when the image's tiles are shuffled.

Tang et al., "A Training-Free Synthetic Data Selection Method for Semantic Segmentation", AAAI 2025 (arXiv
2501.15201). An image whose
reading hardly changes had no object structure to lose.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_contracts import sample_seed


def tile_permutations(seed: int, sample_id: str, rounds: int, grid: int) -> NDArray[np.int64]:
    """`rounds` permutations of grid*grid tiles for one sample, int64 (rounds, grid*grid). A larger `rounds` only
    appends.
    """
    rng = np.random.default_rng(sample_seed(seed, sample_id, "pcs"))
    return np.stack([rng.permutation(grid * grid) for _ in range(rounds)])


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
