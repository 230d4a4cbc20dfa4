"""Drawn clips of a video's length: several objects that cross, one that leaves and comes back, one that looks like it.

What a short clip leaves no room for, and what the choice between matching and updating is about. In every clip the
first object walks to the middle, where it crosses the second, leaves the frame and comes back elsewhere. In even clips
the second object is its look-alike; in odd clips a third one, which has no box, walks in while the first is away.
Drawings, background and walks depend on (part, number) alone; styles of the test part are drawn for nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.ftmu.clips import DRAWN_SIDE, Clip
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig
from maskmill.starter.drawn.backgrounds import render_background
from maskmill.starter.drawn.compositing import Canvas, Patch, Pose, hue_matrix, recolour, resample
from maskmill.starter.drawn.drawings import Drawing, load_drawings
from maskmill.starter.drawn.scenes import drawing_colours, pick_drawing, scene_rng
from maskmill.starter.drawn.textures import Float, Rng

LENGTH = 70  # frames, as many as a clip of DAVIS at its full rate has
MEETING, LEAVING, GONE, BACK, HOME = 0.3, 0.38, 0.48, 0.66, 0.76  # shares of a clip: what the first object does when
LongPart = Literal["learn", "dev", "test"]
PARTS: dict[LongPart, tuple[tuple[str, ...], int]] = {  # styles, seed
    "learn": (KNOWN_STYLES, 11),
    "dev": (KNOWN_STYLES, 12),
    "test": (UNSEEN_STYLES, 13),
}


@dataclass(frozen=True, eq=False)
class _Walker:
    """A drawing and its way: float arrays of times (0..1) and places (k, 2) x, y in shares of the frame."""

    drawing: Drawing
    colours: Float
    length: float
    turn: float
    mirrored: bool
    times: Sequence[float]
    places: NDArray[np.float64]
    away: tuple[float, float] = (2.0, 2.0)  # from when to when it is out of the frame

    def patch(self, time: float, size: int) -> Patch | None:
        """What is to be laid at a time; None while it is away."""
        if self.away[0] < time < self.away[1]:
            return None
        x, y = (float(np.interp(time, self.times, self.places[:, axis])) * size for axis in (0, 1))
        tilt = self.turn * float(np.sin(2 * np.pi * time))
        return recolour(
            resample(self.drawing, Pose(x, y, self.length * size, tilt, self.mirrored), size, size), self.colours
        )


def _edge(rng: Rng, side: int, length: float) -> NDArray[np.float64]:
    """A place just out of the frame, on side 0 to 3: left, right, top, bottom."""
    out = -0.75 * length if side % 2 == 0 else 1 + 0.75 * length
    along = rng.uniform(0.2, 0.8)
    return np.array([out, along] if side < 2 else [along, out])


def _inside(rng: Rng, count: int) -> NDArray[np.float64]:
    return rng.uniform(0.15, 0.85, (count, 2))


def _alike(rng: Rng, colours: Float) -> Float:
    """The colours of a look-alike: a turned hue and another brightness, both slight."""
    turned: Float = np.float32(rng.choice([0.82, 1.18])) * (hue_matrix(float(rng.choice([-25, 25]))) @ colours)
    return turned


def _walkers(rng: Rng, config: SceneConfig, count: int, twin: bool) -> list[_Walker]:
    """`count` objects in order of their ids, and behind them a look-alike without a box where `twin` is false."""
    drawings = load_drawings(config.styles)
    names = [config.classes[i] for i in rng.permutation(len(config.classes))]
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
    starts = 0.5 + 0.3 * np.stack([np.cos(angles), np.sin(angles)], 1)
    middle = np.array([0.5, 0.5])
    walkers: list[_Walker] = []
    for position in range(count if twin else count + 1):
        shape = float(rng.uniform(0.26, 0.32)), float(rng.uniform(-15, 15)), bool(rng.random() < 0.5)
        drawing = pick_drawing(rng, drawings, names[position])
        colours = drawing_colours(rng, drawing, config)
        if position == (1 if twin else count):
            drawing, colours = walkers[0].drawing, _alike(rng, walkers[0].colours)
        sides = rng.permutation(4)
        if position == 0:
            out, back = (_edge(rng, int(side), shape[0]) for side in sides[:2])
            times = (0, MEETING, LEAVING, GONE, BACK, HOME, 1)
            places = np.stack([starts[0], middle, *_inside(rng, 1), out, back, *_inside(rng, 2)])
            walkers.append(_Walker(drawing, colours, *shape, times, places, (GONE, BACK)))
        elif position < count:
            way = [starts[position], *_inside(rng, 5)]
            if position == 1:
                way[1] = middle + rng.uniform(-0.03, 0.03, 2)
            walkers.append(_Walker(drawing, colours, *shape, (0, MEETING, 0.45, 0.6, 0.8, 1), np.stack(way)))
        else:
            edge = _edge(rng, int(sides[0]), shape[0])
            places = np.stack([edge, edge, *_inside(rng, 3)])
            walkers.append(_Walker(drawing, colours, *shape, (0, GONE, 0.6, 0.8, 1), places, (-1.0, GONE)))
    return walkers


def long_clip(number: int, part: LongPart, frames: int = LENGTH) -> Clip:
    """Two to four objects with a box each, square frames of `DRAWN_SIDE` pixels."""
    styles, seed = PARTS[part]
    config = SceneConfig(size=DRAWN_SIDE, styles=styles, seed=seed)
    rng = scene_rng(config, number, "long")
    count, size, margin = 2 + number % 3, config.size, config.size // 4
    background = config.backgrounds[int(rng.integers(len(config.backgrounds)))]
    world = render_background(background, rng, size + margin, size + margin)
    pan = rng.uniform(0, margin, (2, 2))
    walkers = _walkers(rng, config, count, twin=number % 2 == 0)
    shown, truth = [], []
    for time in np.linspace(0, 1, frames):
        top, left = (int(v) for v in np.rint(pan[0] + (pan[1] - pan[0]) * time))
        canvas = Canvas(world[top : top + size, left : left + size].copy())
        ids = np.zeros(len(walkers) + 1, np.uint8)  # by layer; what has no box is background
        for position, walker in enumerate(walkers):
            patch = walker.patch(float(time), size)
            if patch is not None:
                ids[canvas.lay(patch)] = position + 1 if position < count else 0
        shown.append(canvas.pixels(rng, config.noise))
        truth.append(ids[canvas.owner])
    return Clip(f"long {part} {number}", shown, np.stack(truth), tuple(range(1, count + 1)))


@cache
def long_clips(count: int, part: LongPart, frames: int = LENGTH) -> tuple[Clip, ...]:
    """The first `count` clips of a part."""
    return tuple(long_clip(number, part, frames) for number in range(count))
