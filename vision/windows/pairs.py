"""Unordered pairs of near pixels, each visited once.

A *window* is a radius r, all pixels at most r apart in both axes; or dilations (1, 2, 4, 8), the eight neighbours at
each of these distances, which reach as far with fewer pairs. A *pair stack* is a tensor (N, m, h, w) with as many m as
half of the window has pixels, ((2 r + 1)^2 - 1) / 2 or four a dilation: entry [n, o, y, x] belongs to the pixel (y, x)
and its partner (y, x) + offset o, and is 0 where the partner lies outside the image. Nothing is ever padded, so borders
cannot leak.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

Slices = tuple[slice, slice]
Window = int | tuple[int, ...]


@functools.cache
def half_offsets(window: Window) -> tuple[tuple[int, int], ...]:
    """Offsets (dy, dx) with dy > 0, or dy = 0 and dx > 0: half of the window, the centre excluded.

    Raises:
        ValueError: a radius or dilation below 1, a dilation twice, or none.
    """
    if isinstance(window, tuple):
        if not window or min(window) < 1 or len(set(window)) < len(window):
            raise ValueError(f"dilations: expected different numbers of 1 or more, found {window}")
        return tuple((dy * step, dx * step) for step in window for dy, dx in half_offsets(1))
    if window < 1:
        raise ValueError(f"radius: expected 1 or more, found {window}")
    right = [(0, dx) for dx in range(1, window + 1)]
    below = [(dy, dx) for dy in range(1, window + 1) for dx in range(-window, window + 1)]
    return (*right, *below)


def pair_slices(dy: int, dx: int, height: int, width: int) -> tuple[Slices, Slices] | None:
    """Where the first and the second pixels of an offset's pairs lie; None where the image is too small for any."""
    if dy >= height or abs(dx) >= width:
        return None
    first = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
    second = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
    return first, second


def all_pairs(window: Window, height: int, width: int) -> Iterator[tuple[int, Slices, Slices]]:
    """(position of the offset in a pair stack, first pixels, second pixels) of every offset that fits."""
    for position, (dy, dx) in enumerate(half_offsets(window)):
        found = pair_slices(dy, dx, height, width)
        if found is not None:
            yield position, *found


def partner_values(values: Tensor, window: Window, fill: float) -> Tensor:
    """Pair stack of each pixel's partner: (N, h, w) of any dtype to (N, m, h, w), `fill` outside the image."""
    batch, height, width = values.shape
    out = values.new_full((batch, len(half_offsets(window)), height, width), fill)
    for position, first, second in all_pairs(window, height, width):
        out[(slice(None), position, *first)] = values[(slice(None), *second)]
    return out


def narrowed(stack: Tensor, window: Window, narrower: Window) -> Tensor:
    """The pairs of a pair stack that lie within a narrower window; the stack itself where both are equal.

    Raises:
        ValueError: the window asked for is wider.
    """
    if narrower == window:
        return stack
    places = {offset: position for position, offset in enumerate(half_offsets(window))}
    if missing := [offset for offset in half_offsets(narrower) if offset not in places]:
        raise ValueError(f"narrowed: expected a window within {window}, found {narrower} with offsets {missing[:3]}")
    return stack[:, [places[offset] for offset in half_offsets(narrower)]]


def empty_stack(like: Tensor, window: Window) -> Tensor:
    """Zeros of a pair stack for images (N, C, h, w)."""
    batch, _, height, width = like.shape
    return torch.zeros(batch, len(half_offsets(window)), height, width, dtype=like.dtype, device=like.device)


def blocks(batch: int, numbers: int) -> Iterator[slice]:
    """Slices of a batch that keep `numbers` values an image within a CPU's cache: about 1 MiB of float32 a block."""
    size = max(1, 2**18 // max(numbers, 1))
    for start in range(0, batch, size):
        yield slice(start, min(start + size, batch))
