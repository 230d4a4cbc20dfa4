"""Procedural backgrounds of built things. Each takes (rng, height, width) and returns float32 (H, W, 3) in 0..1."""

import numpy as np

from maskmill.starter.drawn.nature import EARTHS, GREENS, grass, ground, sky, water
from maskmill.starter.drawn.textures import (
    Colour,
    Float,
    Rng,
    axes,
    noise,
    over,
    pick,
    ramp,
    step,
    stripes,
    tint,
    tints,
)

FACADES: list[list[Colour]] = [
    [(0.58, 0.32, 0.24), (0.70, 0.42, 0.32)],
    [(0.66, 0.62, 0.55), (0.80, 0.76, 0.68)],
    [(0.44, 0.48, 0.54), (0.60, 0.64, 0.70)],
    [(0.76, 0.66, 0.44), (0.88, 0.79, 0.58)],
    [(0.50, 0.60, 0.56), (0.66, 0.74, 0.70)],
]


def building(rng: Rng, height: int, width: int) -> Float:
    """A facade with rows of windows, each pane a little different."""
    y, x = axes(height, width)
    rows, columns = int(rng.integers(4, 8)), int(rng.integers(4, 9))
    picture = ramp(noise(rng, height, width, 4, 5), pick(rng, FACADES))
    share_y, share_x = rng.uniform(0.5, 0.75), rng.uniform(0.45, 0.8)
    window = stripes(y, rows, share_y, rng.random()) * stripes(x, columns, share_x, rng.random())
    panes = rng.random((rows + 2, columns + 2), dtype=np.float32)
    pane = panes[(y * rows).astype(np.intp), (x * columns).astype(np.intp)]
    glass = ramp(pane * 0.7 + 0.3 * (1 - y), tints(rng, (0.12, 0.16, 0.22), (0.36, 0.46, 0.56), (0.86, 0.84, 0.66)))
    ledge = stripes(y, rows, 0.06, rng.random()) * np.ones_like(x)
    return over(over(picture, tint(rng, (0.86, 0.84, 0.80)), ledge), glass, window)


def _bricks(rng: Rng, height: int, width: int) -> Float:
    y, x = axes(height, width)
    rows = int(rng.integers(8, 14))
    columns = rows * 0.5
    row = np.floor(y * rows)
    shifted = x * np.float32(columns) + 0.5 * (row % 2)
    mortar = np.maximum(stripes(y, rows, 0.14), ((shifted - np.floor(shifted)) < 0.07).astype(np.float32))
    shades = rng.random((rows + 1, int(columns) + 3), dtype=np.float32)
    shade = shades[row.astype(np.intp), shifted.astype(np.intp)]
    palettes: list[list[Colour]] = [
        [(0.42, 0.18, 0.12), (0.66, 0.33, 0.24)],
        [(0.52, 0.48, 0.44), (0.72, 0.68, 0.62)],
        [(0.60, 0.48, 0.36), (0.78, 0.64, 0.48)],
    ]
    bricks = ramp(shade * 0.7 + 0.3 * noise(rng, height, width, 8, 3), pick(rng, palettes))
    return over(bricks, tint(rng, (0.74, 0.71, 0.67)), mortar)


def _boards(rng: Rng, height: int, width: int) -> Float:
    y, x = axes(height, width)
    upright = rng.random() < 0.5
    along = x if upright else y
    count = int(rng.integers(5, 10))
    grain = noise(rng, height, width, 4, 4, stretch=0.15 if upright else 6)
    shades = rng.random(count + 1, dtype=np.float32)[(along * count).astype(np.intp)]
    stops = pick(rng, [EARTHS[0], EARTHS[2], [(0.40, 0.44, 0.46), (0.62, 0.66, 0.67), (0.82, 0.85, 0.85)]])
    gaps = stripes(along, count, 0.07) * np.ones((height, width), np.float32)
    return over(ramp(grain * 0.6 + shades * 0.4, stops), (0.10, 0.08, 0.06), gaps * np.float32(0.8))


def _tiles(rng: Rng, height: int, width: int) -> Float:
    y, x = axes(height, width)
    count = int(rng.integers(5, 9))
    shades = rng.random((count + 1, count + 1), dtype=np.float32)
    shade = shades[(y * count).astype(np.intp), (x * count).astype(np.intp)]
    gloss = noise(rng, height, width, 2, 3)
    base = tint(rng, (0.55, 0.65, 0.68), 0.25)
    light: Colour = (base[0] * 0.3 + 0.7, base[1] * 0.3 + 0.7, base[2] * 0.3 + 0.7)
    joints = np.maximum(stripes(y, count, 0.08), stripes(x, count, 0.08))
    return over(ramp(shade * 0.35 + gloss * 0.65, [base, light]), (0.88, 0.88, 0.86), joints)


def _plaster(rng: Rng, height: int, width: int) -> Float:
    stains = noise(rng, height, width, 2, 5) * 0.7 + 0.3 * noise(rng, height, width, 12, 2)
    base = tint(rng, (0.72, 0.66, 0.58), 0.2)
    dark: Colour = (base[0] * 0.6, base[1] * 0.6, base[2] * 0.6)
    return ramp(stains, [dark, base, tint(rng, base, 0.04)])


def wall(rng: Rng, height: int, width: int) -> Float:
    """Bricks, boards, tiles or stained plaster."""
    kinds = (_bricks, _boards, _tiles, _plaster)
    return kinds[int(rng.integers(len(kinds)))](rng, height, width)


def house(rng: Rng, height: int, width: int) -> Float:
    """A gable roof over a boarded front with windows and a door, meadow in front."""
    y, x = axes(height, width)
    middle, eaves = np.float32(rng.uniform(0.35, 0.65)), rng.uniform(0.3, 0.45)
    front = ramp(noise(rng, height, width, 4, 4), pick(rng, FACADES)) * (1 - 0.16 * stripes(y, 22, 0.3))[..., None]
    for offset in (-0.28, 0.22):
        pane = (np.abs(x - middle - np.float32(offset)) < 0.09) & (np.abs(y - np.float32(eaves + 0.17)) < 0.09)
        frame = (np.abs(x - middle - np.float32(offset)) < 0.11) & (np.abs(y - np.float32(eaves + 0.17)) < 0.11)
        front = over(front, (0.93, 0.92, 0.90), frame.astype(np.float32))
        front = over(front, (0.24, 0.32, 0.42), pane.astype(np.float32))
    door = (np.abs(x - middle) < 0.07) & (y > np.float32(eaves + 0.2))
    front = over(front, tint(rng, (0.40, 0.22, 0.16), 0.15), door.astype(np.float32))
    roof_line = np.float32(0.02) + np.abs(x - middle) * np.float32(rng.uniform(0.3, 0.7))
    shingles = ramp(noise(rng, height, width, 12, 3, stretch=2), tints(rng, (0.30, 0.16, 0.13), (0.58, 0.34, 0.28)))
    shingles = shingles * (1 - 0.25 * stripes(y, 20, 0.25))[..., None]
    picture = over(sky(rng, height, width), shingles, step(y - roof_line, 0, 0.01))
    picture = over(picture, front, step(y - np.float32(eaves), 0, 0.01) * np.ones_like(x))
    return over(picture, grass(rng, height, width), step(y, rng.uniform(0.82, 0.9), 0.02) * np.ones_like(x))


def _asphalt(rng: Rng, height: int, width: int) -> Float:
    coarse = noise(rng, height, width, 3, 3) * 0.5 + 0.5 * noise(rng, height, width, 20, 2)
    return ramp(coarse, tints(rng, (0.22, 0.22, 0.24), (0.40, 0.40, 0.42), (0.54, 0.54, 0.55)))


def road(rng: Rng, height: int, width: int) -> Float:
    """Asphalt that runs to the horizon, with lane marks and verges."""
    y, x = axes(height, width)
    horizon = rng.uniform(0.15, 0.4)
    near = np.clip((y - np.float32(horizon)) / np.float32(1 - horizon), 1e-3, 1)
    vanish = np.float32(rng.uniform(0.3, 0.7))
    across = (x - vanish - (np.float32(rng.uniform(0.3, 0.7)) - vanish) * near) / (0.05 + np.float32(0.6) * near)
    verge = grass if rng.random() < 0.6 else ground
    picture = over(verge(rng, height, width), _asphalt(rng, height, width), step(-np.abs(across), -0.9, 0.05))
    paint: Colour = (0.93, 0.92, 0.86) if rng.random() < 0.6 else (0.92, 0.76, 0.22)
    dashes = (np.abs(across) < 0.04) * stripes(1 / (near + 0.15), 2.2, 0.55)
    edges = (np.abs(np.abs(across) - 0.8) < 0.03).astype(np.float32)
    picture = over(picture, paint, np.maximum(dashes, edges).astype(np.float32))
    return over(picture, sky(rng, height, width), step(-y, -horizon, 0.01) * np.ones_like(x))


def street(rng: Rng, height: int, width: int) -> Float:
    """Facades, a pavement, and asphalt with a zebra crossing or a kerb line."""
    y, x = axes(height, width)
    pavement, kerb = rng.uniform(0.42, 0.55), rng.uniform(0.62, 0.72)
    ones = np.ones((height, width), np.float32)
    slabs = ramp(noise(rng, height, width, 8, 3), tints(rng, (0.52, 0.50, 0.48), (0.72, 0.70, 0.67)))
    slabs = over(slabs, (0.36, 0.35, 0.34), np.maximum(stripes(x, 8, 0.06), stripes(y, 12, 0.1)) * ones)
    lane = _asphalt(rng, height, width)
    line = (np.abs(y - np.float32(0.86)) < 0.02) * ones
    marks = stripes(x, 7, 0.5, rng.random()) * (y > kerb + 0.1) if rng.random() < 0.5 else line
    lane = over(lane, (0.90, 0.90, 0.87), (marks * np.float32(0.85)).astype(np.float32))
    picture = over(building(rng, height, width), slabs, step(y, pavement, 0.01) * ones)
    picture = over(picture, (0.80, 0.79, 0.77), step(y, kerb - 0.02, 0.01) * ones)
    return over(picture, lane, step(y, kerb, 0.01) * ones)


def _track(picture: Float, rng: Rng, across: Float, along: Float, sleepers: float) -> Float:
    """Sleepers and two rails over gravel; `across`: -1..1 between the sleepers' ends, `along`: distance."""
    bars = stripes(along, sleepers, 0.45) * (np.abs(across) < 1)
    picture = over(picture, tint(rng, (0.30, 0.21, 0.15)), bars.astype(np.float32))
    rails = (np.abs(np.abs(across) - 0.62) < 0.09).astype(np.float32)
    shine = (np.abs(np.abs(across) - 0.60) < 0.03).astype(np.float32)
    return over(over(picture, (0.32, 0.30, 0.30), rails), (0.80, 0.80, 0.82), shine)


def _gravel(rng: Rng, height: int, width: int) -> Float:
    stones = noise(rng, height, width, 18, 2) * 0.7 + 0.3 * noise(rng, height, width, 3, 3)
    return ramp(stones, tints(rng, (0.28, 0.26, 0.25), (0.50, 0.47, 0.45), (0.70, 0.67, 0.64)))


def railway(rng: Rng, height: int, width: int) -> Float:
    """Tracks that run to the horizon between green verges."""
    y, x = axes(height, width)
    horizon = rng.uniform(0.12, 0.35)
    near = np.clip((y - np.float32(horizon)) / np.float32(1 - horizon), 1e-3, 1)
    vanish, foot = np.float32(rng.uniform(0.35, 0.65)), np.float32(rng.uniform(0.3, 0.7))
    across = (x - vanish - (foot - vanish) * near) / (0.03 + np.float32(0.32) * near)
    bed = over(grass(rng, height, width), _gravel(rng, height, width), step(-np.abs(across), -1.7, 0.3))
    picture = _track(bed, rng, across, 1 / (near + 0.12), 3.5)
    return over(picture, sky(rng, height, width), step(-y, -horizon, 0.01) * np.ones_like(x))


def railroad(rng: Rng, height: int, width: int) -> Float:
    """One or two tracks seen from above, slanting a little."""
    y, x = axes(height, width)
    across_axis, along_axis = (x, y) if rng.random() < 0.5 else (y, x)
    slant = np.float32(rng.uniform(-0.25, 0.25))
    picture = _gravel(rng, height, width)
    count = int(rng.integers(1, 3))
    for index in range(count):
        centre = np.float32((index + 0.5) / count + rng.uniform(-0.08, 0.08))
        across = (across_axis - centre + slant * (along_axis - 0.5)) / np.float32(0.19)
        picture = _track(picture, rng, across, along_axis + 0 * across_axis, 9)
    return picture


def bridge(rng: Rng, height: int, width: int) -> Float:
    """A suspension bridge over water: towers, hanging cables, deck."""
    y, x = axes(height, width)
    deck, span = rng.uniform(0.5, 0.65), np.float32(rng.uniform(0.5, 0.8))
    ones = np.ones((height, width), np.float32)
    picture = over(sky(rng, height, width), water(rng, height, width), step(y, deck + 0.12, 0.01) * ones)
    steel = tint(rng, (0.62, 0.26, 0.18) if rng.random() < 0.5 else (0.42, 0.44, 0.48))
    phase = x / span + np.float32(rng.random())
    sag = (phase - np.floor(phase) - 0.5) * 2
    cable = np.float32(deck - 0.06) - sag**2 * np.float32(rng.uniform(0.3, 0.42))
    hangers = stripes(x, 22, 0.18) * (y > cable) * (y < deck)
    parts = np.maximum(hangers * 0.7, (np.abs(y - cable) < 0.014) * 1.0)
    towers = (np.abs(sag) > 0.94) & (y > np.float32(deck - 0.45))
    solid = ((np.abs(y - np.float32(deck)) < 0.035) * ones).astype(np.float32)
    picture = over(picture, steel, np.maximum(parts, towers).astype(np.float32))
    return over(picture, (steel[0] * 0.6, steel[1] * 0.6, steel[2] * 0.6), solid)


def keyboard(rng: Rng, height: int, width: int) -> Float:
    """Rows of keys, each shifted against the one above, with legends."""
    y, x = axes(height, width)
    rows = int(rng.integers(4, 7))
    columns = rows * 1.1
    dark = rng.random() < 0.5
    row = np.floor(y * rows)
    shift = rng.random(rows + 1, dtype=np.float32)[row.astype(np.intp)]
    column = x * np.float32(columns) + shift
    u, v = column - np.floor(column), y * rows - row
    key = step(0.44 - np.maximum(np.abs(u - 0.5), np.abs(v - 0.5)), 0, 0.06)
    legend = ((np.abs(u - 0.38) < 0.10) & (np.abs(v - 0.38) < 0.12)).astype(np.float32)
    grey: list[Colour] = [(0.12, 0.12, 0.14), (0.30, 0.30, 0.33)] if dark else [(0.76, 0.76, 0.74), (0.94, 0.94, 0.92)]
    stops = tints(rng, *grey)
    caps = ramp(0.75 - 0.5 * v + 0.35 * (noise(rng, height, width, 3, 4) - 0.5), stops)
    caps = over(caps, (0.85, 0.86, 0.88) if dark else (0.25, 0.25, 0.28), legend * np.float32(0.8))
    return over(ramp(noise(rng, height, width, 6, 3), [(0.06, 0.06, 0.07), (0.24, 0.24, 0.26)]), caps, key)


def helmet(rng: Rng, height: int, width: int) -> Float:
    """A glossy dome close up, with a band, a shine and a dark rim."""
    y, x = axes(height, width)
    cx, cy = np.float32(rng.uniform(0.35, 0.65)), np.float32(rng.uniform(0.75, 1.0))
    radius = np.sqrt(((x - cx) / np.float32(0.62)) ** 2 + ((y - cy) / np.float32(0.85)) ** 2)
    base = tint(rng, FACADES[int(rng.integers(5))][0], 0.3)
    light: Colour = (base[0] * 0.4 + 0.6, base[1] * 0.4 + 0.6, base[2] * 0.4 + 0.6)
    dark: Colour = (base[0] * 0.35, base[1] * 0.35, base[2] * 0.35)
    scuffs = noise(rng, height, width, 5, 5)
    dome = ramp(1.05 - radius * 0.8 + 0.25 * (scuffs - 0.5), [dark, base, light])
    bands = (np.abs(np.sin((x - cx) * np.float32(rng.uniform(5, 9)))) > 0.93).astype(np.float32)
    dome = over(dome, light, bands * np.float32(0.7))
    shine = np.sqrt((x - cx + 0.2) ** 2 + ((y - cy + 0.55) * np.float32(1.6)) ** 2)
    dome = over(dome, (1, 1, 1), step(-shine, -0.2, 0.2) * np.float32(0.7))
    backdrop = wall(rng, height, width) * np.float32(0.7)
    return over(over(backdrop, (0.08, 0.08, 0.09), step(-radius, -1.06, 0.02)), dome, step(-radius, -1.0, 0.02))


def sign(rng: Rng, height: int, width: int) -> Float:
    """A painted board with a border and lines of lettering or hazard stripes."""
    y, x = axes(height, width)
    palettes: list[list[Colour]] = [
        [(0.10, 0.36, 0.22), (0.94, 0.95, 0.92)],
        [(0.12, 0.28, 0.60), (0.95, 0.95, 0.95)],
        [(0.93, 0.74, 0.12), (0.10, 0.10, 0.10)],
        [(0.74, 0.12, 0.14), (0.96, 0.95, 0.93)],
        [(0.92, 0.92, 0.90), (0.14, 0.14, 0.16)],
    ]
    board, ink = pick(rng, palettes)
    worn = noise(rng, height, width, 3, 5)
    picture = ramp(worn, [(board[0] * 0.7, board[1] * 0.7, board[2] * 0.7), board])
    margin = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5))
    if rng.random() < 0.35:
        marks = stripes(x + y * np.float32(rng.choice([-1, 1])), rng.uniform(4, 7), 0.5)
    else:
        lines, letters = int(rng.integers(2, 5)), int(rng.integers(7, 12))
        cells = rng.random((lines + 1, letters * 3 + 1), dtype=np.float32)
        ink_here = cells[(y * lines).astype(np.intp), (x * letters * 3).astype(np.intp)] < 0.55
        marks = ink_here * stripes(y, lines, 0.5, 0.75) * stripes(x, letters, 0.8)
    picture = over(picture, ink, (marks * (margin < 0.40) * (0.75 + 0.25 * worn)).astype(np.float32))
    border = ((margin > 0.43) & (margin < 0.46)).astype(np.float32)
    beyond = grass(rng, height, width) if rng.random() < 0.5 else ramp(worn, pick(rng, GREENS))
    return over(over(picture, ink, border), beyond, (margin > 0.485).astype(np.float32))
