"""Pairs of neighbouring cells: one entry for each unordered pair of a window, and the colour kernel over them.

A window of radius r holds (2r + 1)^2 - 1 neighbours; each pair is counted once, through the half of the offsets that
point down or right. `pairs[:, p, y, x]` belongs to the cells (y, x) and (y, x) + offsets[p]; where that neighbour lies
outside, the entry is 0.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Offset = tuple[int, int]
POSITION_SIGMA = 6.0  # cells
COLOUR_SIGMA = 0.1  # of ImageNet-normalised RGB


@functools.cache
def half_offsets(radius: int) -> tuple[Offset, ...]:
    """(dy, dx) of one half of a window: dy > 0, or dy = 0 and dx > 0; Chebyshev distance at most `radius`."""
    span = range(-radius, radius + 1)
    return tuple((dy, dx) for dy in range(radius + 1) for dx in span if dy > 0 or dx > 0)


def pair_values(x: Tensor, radius: int, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`measure(x_i, x_j)` of every pair: (B, C, h, w) to (B, P, h, w); `measure` takes (B, C, ...) to (B, ...)."""
    height, width = x.shape[2:]
    planes = []
    for dy, dx in half_offsets(radius):
        rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
        left = min(max(-dx, 0), width)
        here = x[:, :, :rows, left : left + columns]
        there = x[:, :, dy : dy + rows, left + dx : left + dx + columns]
        padding = (left, width - left - columns, 0, height - rows)
        planes.append(torch.nn.functional.pad(measure(here, there), padding))
    return torch.stack(planes, dim=1)


def feature_distance(features: Tensor, radius: int) -> Tensor:
    """d_ij = mean over channels of |f_i - f_j|: (B, E, h, w) to (B, P, h, w)."""
    return pair_values(features, radius, lambda a, b: (a - b).abs().mean(dim=1))


def pairs_inside(valid: Tensor, radius: int) -> Tensor:
    """True where both ends of a pair are valid: bool (B, h, w) to bool (B, P, h, w)."""
    return pair_values(valid[:, None].float(), radius, lambda a, b: (a * b)[:, 0]) > 0


def colour_kernel(rgb: Tensor, radius: int) -> Tensor:
    """K_ij = exp(-(|dxy|^2 / 6^2 + |drgb|^2 / 0.1^2) / 2): (B, 3, h, w), ImageNet-normalised, to (B, P, h, w)."""
    colour = pair_values(rgb, radius, lambda a, b: (a - b).square().sum(dim=1))
    apart = torch.tensor([dy * dy + dx * dx for dy, dx in half_offsets(radius)], dtype=rgb.dtype, device=rgb.device)
    inside = pairs_inside(torch.ones_like(rgb[:, 0], dtype=torch.bool), radius)
    distance = colour / COLOUR_SIGMA**2 + apart[:, None, None] / POSITION_SIGMA**2
    return torch.exp(-distance / 2) * inside


def to_window(pairs: Tensor, radius: int, centre: float) -> Tensor:
    """Pairs (B, P, h, w) to windows (B, (2r + 1)^2, h, w), row-major; `centre` at the cell itself, 0 outside."""
    side = 2 * radius + 1
    out = pairs.new_zeros(len(pairs), side * side, *pairs.shape[2:])
    height, width = pairs.shape[2:]
    out[:, side * side // 2] = centre
    for p, (dy, dx) in enumerate(half_offsets(radius)):
        rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
        left = min(max(-dx, 0), width)
        values = pairs[:, p, :rows, left : left + columns]
        out[:, (radius + dy) * side + radius + dx, :rows, left : left + columns] = values
        out[:, (radius - dy) * side + radius - dx, dy : dy + rows, left + dx : left + dx + columns] = values
    return out
