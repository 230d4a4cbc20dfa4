"""Building blocks of procedural backgrounds: value noise, colour ramps, masks. All arrays are float32 in 0..1.

Only numpy's element-wise arithmetic is used: no matrix kernel, no image library whose versions round differently.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Rng = np.random.Generator
Colour = tuple[float, float, float]

RAMP_AT = np.arange(256) / 255


@lru_cache(maxsize=32)
def axes(height: int, width: int) -> tuple[Float, Float]:
    """Pixel-centre coordinates y (H, 1) and x (1, W) in 0..1. Do not write to them: they are shared."""
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / width
    return y, x


def _lattice(length: int, cells: float, phase: float) -> tuple[NDArray[np.intp], Float]:
    position = np.arange(length, dtype=np.float32) * np.float32(cells / length) + np.float32(phase)
    index = position.astype(np.intp)
    fraction = position - index.astype(np.float32)
    return index, (fraction * fraction * (3 - 2 * fraction)).astype(np.float32)


def _layer(rng: Rng, height: int, width: int, rows: float, columns: float) -> Float:
    """One octave: a random lattice of rows × columns cells, smoothly interpolated to (H, W)."""
    lattice = rng.random((int(rows) + 3, int(columns) + 3), dtype=np.float32)
    phase_y, phase_x = rng.random(2)
    iy, fy = _lattice(height, rows, float(phase_y))
    ix, fx = _lattice(width, columns, float(phase_x))
    left = lattice.take(ix, axis=1)
    across = left + (lattice.take(ix + 1, axis=1) - left) * fx
    above = across.take(iy, axis=0)
    return above + (across.take(iy + 1, axis=0) - above) * fy[:, None]


def noise(rng: Rng, height: int, width: int, cells: float, octaves: int = 4, stretch: float = 1.0) -> Float:
    """Multi-octave value noise (H, W), spread over 0..1.

    `cells`: coarsest lattice cells over the height; `stretch` > 1 draws features out horizontally, < 1 vertically.
    Octaves finer than the pixel grid are left out.
    """
    columns = cells * width / height / stretch
    total = np.zeros((height, width), np.float32)
    weight, norm = 1.0, 0.0
    for octave in range(octaves):
        factor = 2.0**octave
        if octave and max(cells * factor / height, columns * factor / width) > 0.75:
            break
        total += np.float32(weight) * _layer(rng, height, width, cells * factor, columns * factor)
        norm += weight
        weight *= 0.55
    return (total * np.float32(1.7 / norm) - np.float32(0.35)).clip(0, 1)


def profile(rng: Rng, length: int, cells: float, octaves: int = 4) -> Float:
    """One-dimensional value noise (length,) in 0..1: skylines, ridges, river banks."""
    total = np.zeros(length, np.float32)
    for octave in range(octaves):
        count = cells * 2.0**octave
        knots = rng.random(int(count) + 3, dtype=np.float32)
        index, fraction = _lattice(length, count, float(rng.random()))
        total += np.float32(0.5**octave) * (knots[index] + (knots[index + 1] - knots[index]) * fraction)
    return total / np.float32(2 - 0.5 ** (octaves - 1))


def ramp(t: Float, stops: Sequence[Colour]) -> Float:
    """Colour (H, W, 3) of t (H, W) along evenly spaced colour stops, in 256 steps."""
    knots = np.arange(len(stops)) / (len(stops) - 1)
    table = np.empty((256, 3), np.float32)
    for channel in range(3):
        table[:, channel] = np.interp(RAMP_AT, knots, [stop[channel] for stop in stops])
    return table.take((t * 255).clip(0, 255).astype(np.uint8), axis=0)


def over(base: Float, colour: Colour | Float, alpha: Float) -> Float:
    """Lay a colour (or a picture) over `base` with opacity `alpha` (H, W) or broadcastable to it."""
    mixed: Float = base + (np.asarray(colour, np.float32) - base) * alpha[..., None]
    return mixed


def step(t: Float, edge: float, softness: float) -> Float:
    """0 below edge, 1 above edge + softness, linear between."""
    level: Float = ((t - np.float32(edge)) / np.float32(softness)).clip(0, 1)
    return level


def stripes(coordinate: Float, count: float, share: float, phase: float = 0.0) -> Float:
    """Hard stripes along a coordinate: 1 on the first `share` of each of `count` periods per unit, else 0."""
    cycle = coordinate * np.float32(count) + np.float32(phase)
    inside: Float = ((cycle - np.floor(cycle)) < share).astype(np.float32)
    return inside


def tint(rng: Rng, colour: Colour, amount: float = 0.06) -> Colour:
    """A colour near `colour`."""
    shift = rng.uniform(-amount, amount, 3) + rng.uniform(-amount, amount)
    r, g, b = (float(np.clip(c + s, 0, 1)) for c, s in zip(colour, shift, strict=True))
    return r, g, b


def tints(rng: Rng, *colours: Colour) -> list[Colour]:
    """Several colours moved by one common shift, so that a palette keeps its relations."""
    shift = rng.uniform(-0.05, 0.05, 3) + rng.uniform(-0.05, 0.05)
    moved = [np.clip(np.asarray(colour) + shift, 0, 1).tolist() for colour in colours]
    return [(r, g, b) for r, g, b in moved]


def pick(rng: Rng, palettes: Sequence[Sequence[Colour]]) -> list[Colour]:
    """One of several palettes, tinted."""
    return tints(rng, *palettes[int(rng.integers(len(palettes)))])
