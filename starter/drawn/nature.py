"""Procedural backgrounds of nature. Each takes (rng, height, width) and returns float32 (H, W, 3) in 0..1."""

import numpy as np

from maskmill.starter.drawn.textures import (
    Colour,
    Float,
    Rng,
    axes,
    noise,
    over,
    pick,
    profile,
    ramp,
    step,
    tint,
    tints,
)

GREENS: list[list[Colour]] = [
    [(0.10, 0.25, 0.05), (0.25, 0.48, 0.12), (0.55, 0.72, 0.28)],
    [(0.16, 0.28, 0.10), (0.38, 0.50, 0.18), (0.68, 0.70, 0.36)],
    [(0.05, 0.22, 0.10), (0.14, 0.42, 0.18), (0.36, 0.66, 0.34)],
]
EARTHS: list[list[Colour]] = [
    [(0.22, 0.14, 0.08), (0.45, 0.31, 0.19), (0.66, 0.51, 0.35)],
    [(0.38, 0.22, 0.13), (0.60, 0.40, 0.25), (0.78, 0.60, 0.42)],
    [(0.45, 0.38, 0.28), (0.68, 0.60, 0.46), (0.86, 0.79, 0.65)],
]
WATERS: list[list[Colour]] = [
    [(0.04, 0.16, 0.30), (0.12, 0.34, 0.52), (0.46, 0.66, 0.78)],
    [(0.05, 0.24, 0.28), (0.16, 0.46, 0.48), (0.58, 0.80, 0.78)],
    [(0.14, 0.20, 0.22), (0.32, 0.42, 0.44), (0.68, 0.76, 0.76)],
]
SKIES: list[list[Colour]] = [
    [(0.22, 0.46, 0.80), (0.50, 0.70, 0.92), (0.84, 0.91, 0.97)],
    [(0.24, 0.28, 0.52), (0.74, 0.50, 0.52), (0.98, 0.80, 0.56)],
    [(0.46, 0.52, 0.60), (0.64, 0.69, 0.74), (0.84, 0.86, 0.87)],
    [(0.08, 0.20, 0.52), (0.24, 0.45, 0.78), (0.66, 0.80, 0.94)],
]


def sky(rng: Rng, height: int, width: int) -> Float:
    """A vertical gradient with thin, drawn-out clouds."""
    y, _ = axes(height, width)
    haze = noise(rng, height, width, 3, 4, stretch=3)
    picture = ramp(y * 0.9 + (haze - 0.5) * 0.16 + 0.02, pick(rng, SKIES))
    return over(picture, (0.97, 0.97, 0.98), step(haze, rng.uniform(0.5, 0.75), 0.4) * np.float32(0.7))


def cloud(rng: Rng, height: int, width: int) -> Float:
    """Heaped clouds that fill most of the frame, lit from above."""
    puffs = noise(rng, height, width, rng.uniform(2, 4), 5, stretch=1.4)
    lower = np.roll(puffs, -max(1, height // 24), axis=0)
    picture = ramp(puffs * 0.8 + (puffs - lower) * 1.2 + 0.2, [(0.55, 0.60, 0.68), (0.86, 0.88, 0.91), (1.0, 1.0, 1.0)])
    return over(sky(rng, height, width), picture, step(puffs, rng.uniform(0.2, 0.4), 0.15))


def grass(rng: Rng, height: int, width: int) -> Float:
    """Upright blades over patches of light and shade."""
    blades = noise(rng, height, width, rng.uniform(8, 14), 3, stretch=0.35)
    return ramp(blades * 0.65 + noise(rng, height, width, 2, 3) * 0.4 - 0.05, pick(rng, GREENS))


def ground(rng: Rng, height: int, width: int) -> Float:
    """Bare earth with pebbles."""
    picture = ramp(noise(rng, height, width, rng.uniform(3, 7), 5), pick(rng, EARTHS))
    pebbles = step(noise(rng, height, width, rng.uniform(14, 22), 2), 0.74, 0.1)
    return over(picture, tint(rng, (0.72, 0.68, 0.62)), pebbles * np.float32(0.7))


def land(rng: Rng, height: int, width: int) -> Float:
    """Farm land from above: patches of several crops, some with furrows."""
    y, x = axes(height, width)
    plots = noise(rng, height, width, 2.2, 2)
    level = np.floor(plots * 6)
    angle = level * np.float32(1.1) + np.float32(rng.uniform(0, 3))
    furrows = np.sin((np.cos(angle) * x + np.sin(angle) * y) * np.float32(rng.uniform(70, 110)))
    colours = [*pick(rng, GREENS)[1:], *pick(rng, EARTHS)[1:], *pick(rng, GREENS)[:2]]
    fine = noise(rng, height, width, 12, 3)
    picture = ramp(level / 6 + (fine - 0.5) * 0.12, colours)
    lit: Float = picture * (0.94 + 0.08 * furrows + 0.12 * (fine - 0.5))[..., None]
    return lit


def tree(rng: Rng, height: int, width: int) -> Float:
    """Dense foliage, in some pictures with trunks."""
    _, x = axes(height, width)
    leaves = noise(rng, height, width, rng.uniform(5, 9), 5)
    shade = noise(rng, height, width, 2.5, 2)
    picture = ramp((leaves - 0.5) * 1.3 + shade * 0.6 + 0.15, [(0.02, 0.08, 0.03), *pick(rng, GREENS)])
    bark = noise(rng, height, width, 3, 4, stretch=0.12)
    trunks = ramp(bark, [(0.14, 0.09, 0.06), (0.40, 0.29, 0.20)])
    for _ in range(int(rng.integers(0, 4))):
        centre, half = rng.uniform(0, 1), rng.uniform(0.02, 0.06)
        lean = (bark[:, :1] - 0.5) * 0.05
        inside = step(np.float32(half) - np.abs(x - np.float32(centre) - lean), 0, 0.01)
        picture = over(picture, trunks, inside * step(leaves, 0.25, 0.1))
    return picture


def _ripples(rng: Rng, height: int, width: int, horizon: float) -> Float:
    """Drawn-out waves that grow towards the viewer: (H, W) in 0..1."""
    y, x = axes(height, width)
    near = np.clip((y - np.float32(horizon)) / np.float32(1 - horizon), 0.02, 1)
    swell = noise(rng, height, width, 5, 3, stretch=3)
    waves = np.sin(np.float32(rng.uniform(22, 40)) * np.sqrt(near) + swell * 9 + x * np.float32(rng.uniform(-4, 4)))
    height_of_water: Float = 0.5 + (0.22 * waves + 0.5 * (swell - 0.5)) * (0.4 + 0.6 * near)
    return height_of_water


def _above_horizon(rng: Rng, picture: Float, top: Float, horizon: float) -> Float:
    y, _ = axes(*picture.shape[:2])
    return over(picture, top, step(-y, -horizon, 0.02) * np.ones(picture.shape[:2], np.float32))


def water(rng: Rng, height: int, width: int) -> Float:
    """Clear water seen from above: a net of bright ridges."""
    ridges = 1 - np.abs(2 * noise(rng, height, width, rng.uniform(4, 7), 2) - 1)
    depth = noise(rng, height, width, 2, 3)
    return ramp(ridges**3 * 0.55 + depth * 0.45, pick(rng, WATERS[:2]))


def lake(rng: Rng, height: int, width: int) -> Float:
    """Calm water, a far wooded shore and the sky."""
    horizon = rng.uniform(0.2, 0.45)
    y, _ = axes(height, width)
    picture = ramp(_ripples(rng, height, width, horizon) * 0.6 + 0.45 * (1 - y), pick(rng, WATERS))
    picture = _above_horizon(rng, picture, sky(rng, height, width), horizon)
    shore = np.float32(horizon) - profile(rng, width, 5)[None, :] * np.float32(rng.uniform(0.05, 0.14))
    on_shore = step(y - shore, 0, 0.01) * (y < horizon)
    return over(picture, ramp(noise(rng, height, width, 14, 2), pick(rng, GREENS)[:2]), on_shore)


def sea(rng: Rng, height: int, width: int) -> Float:
    """Waves with foam under an open horizon."""
    horizon = rng.uniform(0.15, 0.4)
    waves = _ripples(rng, height, width, horizon)
    picture = ramp(waves * 1.1 - 0.1, pick(rng, WATERS))
    foam = step(waves * 0.6 + noise(rng, height, width, 9, 3, stretch=2.5) * 0.5, 0.62, 0.1)
    picture = over(picture, (0.93, 0.96, 0.97), foam * np.float32(0.8))
    return _above_horizon(rng, picture, sky(rng, height, width), horizon)


def ocean(rng: Rng, height: int, width: int) -> Float:
    """Open water that fills the frame: slanting swell with white caps."""
    y, x = axes(height, width)
    bend = noise(rng, height, width, 3, 3)
    swell = np.sin((y + x * np.float32(rng.uniform(-0.6, 0.6))) * np.float32(rng.uniform(18, 30)) + bend * 8)
    chop = noise(rng, height, width, 10, 3, stretch=2)
    caps = step(swell * 0.25 + chop, 0.82, 0.1) * np.float32(0.8)
    return over(ramp(0.35 + 0.18 * swell + 0.5 * (chop - 0.5), pick(rng, WATERS[:1])), (0.92, 0.96, 0.98), caps)


def river(rng: Rng, height: int, width: int) -> Float:
    """A winding band of water between banks."""
    y, x = axes(height, width)
    banks = grass(rng, height, width) if rng.random() < 0.6 else ground(rng, height, width)
    centre = np.float32(rng.uniform(0.3, 0.7)) + 0.3 * (profile(rng, height, 1.6, 3)[:, None] - 0.5)
    half = np.float32(rng.uniform(0.10, 0.16)) + np.float32(0.16) * y
    inside = step(half - np.abs(x - centre), 0, 0.02)
    flow = noise(rng, height, width, 3, 4, stretch=0.4)
    shore = over(banks, tint(rng, (0.62, 0.55, 0.42)), step(half + 0.04 - np.abs(x - centre), 0, 0.03))
    return over(shore, ramp(flow, pick(rng, WATERS)), inside)


def mountain(rng: Rng, height: int, width: int) -> Float:
    """Ridges one behind the other, the far ones hazy, some with snow."""
    y, _ = axes(height, width)
    picture = sky(rng, height, width)
    rocks = noise(rng, height, width, 6, 4)
    base = pick(rng, [*EARTHS[:1], *GREENS[:1], [(0.20, 0.22, 0.28), (0.40, 0.42, 0.48), (0.62, 0.64, 0.68)]])
    snow = rng.random() < 0.6
    for layer in range(3):
        ridge = np.float32(0.12 + 0.25 * layer) + 0.4 * profile(rng, width, 2.5 + layer)[None, :]
        inside = step(y - ridge, 0, 0.015)
        haze = np.float32(0.5 - 0.22 * layer)
        surface = over(ramp(rocks, base), (0.66, 0.74, 0.84), np.full((1, 1), haze, np.float32))
        if snow and layer < 2:
            surface = over(surface, (0.96, 0.97, 1.0), step(ridge + 0.16 * rocks + 0.02 - y, 0, 0.02))
        picture = over(picture, surface, inside)
    return picture


def valley(rng: Rng, height: int, width: int) -> Float:
    """Two slopes that meet below the sky, meadow in front."""
    y, x = axes(height, width)
    picture = mountain(rng, height, width)
    low = np.float32(rng.uniform(0.35, 0.65))
    for side in (-1.0, 1.0):
        reach = np.float32(rng.uniform(0.7, 1.2))
        rim = 0.62 - np.maximum(np.float32(side) * (x - low), -0.2) * reach + 0.12 * profile(rng, width, 4)[None, :]
        slope = ramp(noise(rng, height, width, 7, 4) * 0.8 + 0.25 * (1 - y), pick(rng, GREENS))
        picture = over(picture, slope, step(y - rim, 0, 0.02))
    return picture


def rock(rng: Rng, height: int, width: int) -> Float:
    """Weathered stone with cracks and layers."""
    grey = tints(rng, (0.22, 0.21, 0.20), (0.48, 0.46, 0.44), (0.76, 0.74, 0.71))
    stops = grey if rng.random() < 0.6 else pick(rng, EARTHS)
    surface = noise(rng, height, width, rng.uniform(3, 6), 5, stretch=rng.uniform(0.6, 3))
    cracks = np.abs(noise(rng, height, width, rng.uniform(2, 4), 4) - 0.5)
    return over(ramp(surface, stops), (0.10, 0.09, 0.08), step(-cracks, -0.035, 0.03) * np.float32(0.8))
