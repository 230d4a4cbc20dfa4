"""Building blocks of procedural backgrounds: value noise, colour ramps, masks. All arrays are float32 in 0..1.

Only numpy element-wise arithmetic is used, so that a scene is the same bytes on every machine and OpenCV version.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Rng = np.random.Generator
Colour = tuple[float, float, float]


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
    across = lattice[:, ix] + (lattice[:, ix + 1] - lattice[:, ix]) * fx
    return across[iy] + (across[iy + 1] - across[iy]) * fy[:, None]


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
    spread: Float = np.clip((total / np.float32(norm) - 0.5) * 1.7 + 0.5, 0, 1)
    return spread


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
    at = np.linspace(0, 1, 256, dtype=np.float32)
    knots = np.linspace(0, 1, len(stops))
    table = np.stack([np.interp(at, knots, [stop[c] for stop in stops]) for c in range(3)], -1).astype(np.float32)
    return table[(np.clip(t, 0, 1) * 255).astype(np.uint8)]


def over(base: Float, colour: Colour | Float, alpha: Float) -> Float:
    """Lay a colour (or a picture) over `base` with opacity `alpha` (H, W) or broadcastable to it."""
    return base + (np.asarray(colour, np.float32) - base) * alpha[..., None]


def step(t: Float, edge: float, softness: float) -> Float:
    """0 below edge, 1 above edge + softness, linear between."""
    return np.clip((t - np.float32(edge)) / np.float32(softness), 0, 1)


def stripes(coordinate: Float, count: float, share: float, phase: float = 0.0) -> Float:
    """Hard stripes along a coordinate: 1 on the first `share` of each of `count` periods per unit, else 0."""
    cycle = coordinate * np.float32(count) + np.float32(phase)
    return ((cycle - np.floor(cycle)) < share).astype(np.float32)


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
