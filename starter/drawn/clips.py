"""Clips of the drawn world: objects that start apart, cross near the middle and go on, under a moving camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskmill.starter.drawn.backgrounds import render_background
from maskmill.starter.drawn.compositing import Canvas, Pose, recolour, resample
from maskmill.starter.drawn.drawings import Drawing, load_drawings
from maskmill.starter.drawn.scenes import SceneConfig, drawing_colours, mask_box, pick_drawing, scene_rng
from maskmill.starter.drawn.textures import Float, Rng


@dataclass(frozen=True, eq=False)
class Clip:
    """`frames` uint8 (T, H, W, 3); `instance_masks` uint8 (T, H, W): 0 background, 1..n the objects, ids kept.

    `boxes` int32 (T, n, 4): x0, y0, x1, y1 (exclusive) of the visible part, zeros while hidden.
    """

    index: int
    frames: NDArray[np.uint8]
    instance_masks: NDArray[np.uint8]
    boxes: NDArray[np.int32]
    class_ids: tuple[int, ...]
    emoji: tuple[str, ...]
    styles: tuple[str, ...]
    background: str

    @property
    def first_boxes(self) -> NDArray[np.int32]:
        """Boxes of the first frame, int32 (n, 4): the weak label of a clip."""
        first: NDArray[np.int32] = self.boxes[0]
        return first


@dataclass(frozen=True, eq=False)
class _Actor:
    """One moving drawing: start angle on a circle, pace, sway, size and turn (shares of the frame, degrees)."""

    drawing: Drawing
    colours: Float
    angle: float
    delay: float
    sway: float
    length: float
    growth: float
    spin: float
    mirrored: bool

    def pose(self, time: float, size: int) -> Pose:
        """Where it is at `time` in 0..1: from one side of a circle, through the middle, to the other side."""
        # half speed in the middle, so that even a short clip has a frame in which they overlap
        gone = time + 0.08 * np.sin(2 * np.pi * time) + self.delay * np.sin(np.pi * time)
        reach = 0.33 * (1 - 2 * gone)
        across = self.sway * np.sin(2 * np.pi * time)
        x = 0.5 + reach * np.cos(self.angle) - across * np.sin(self.angle)
        y = 0.5 + reach * np.sin(self.angle) + across * np.cos(self.angle)
        length = self.length * (1 + self.growth * np.sin(np.pi * time))
        return Pose(float(x) * size, float(y) * size, float(length) * size, self.spin * (time - 0.5), self.mirrored)


def _cast(rng: Rng, config: SceneConfig, count: int, same_class: bool) -> list[_Actor]:
    drawings = load_drawings(config.styles)
    names = [config.classes[i] for i in rng.permutation(len(config.classes))]
    start = rng.uniform(0, 2 * np.pi)
    # Two actors meet head on, more come from evenly spread sides; sizes keep them apart in the first frame.
    length = {1: 0.5, 2: 0.38, 3: 0.34}.get(count, 0.24)
    actors = []
    for position in range(count):
        drawing = pick_drawing(rng, drawings, names[0 if same_class else position % len(names)])
        angle = start + 2 * np.pi * position / count + rng.uniform(-0.15, 0.15)
        height, width = drawing.levels[0].shape[:2]
        slim = (min(height, width) / max(height, width)) ** -0.25
        motion = (rng.uniform(-0.03, 0.03), rng.uniform(-0.05, 0.05), length * slim * rng.uniform(0.85, 1.0))
        change = (rng.uniform(-0.2, 0.25), rng.uniform(-2, 2) * config.turn, bool(rng.random() < 0.5))
        actors.append(_Actor(drawing, drawing_colours(rng, drawing, config), angle, *motion, *change))
    return actors


def render_clip(
    config: SceneConfig, index: int, n_frames: int = 16, n_objects: int = 2, same_class: bool = False
) -> Clip:
    """Draw clip `index`: `n_objects` objects that cross halfway; later objects pass in front of earlier ones.

    Raises:
        ValueError: fewer than 2 frames, or not 1 to 6 objects.
    """
    if n_frames < 2 or not 1 <= n_objects <= 6:
        raise ValueError(f"clip: expected n_frames >= 2 and 1 to 6 objects; found {n_frames} and {n_objects}")
    rng = scene_rng(config, index, f"clip/{n_frames}/{n_objects}/{same_class}")
    size, margin = config.size, max(2, config.size // 6)
    background = config.backgrounds[int(rng.integers(len(config.backgrounds)))]
    world = render_background(background, rng, size + margin, size + margin)
    pan = rng.uniform(0, margin, (2, 2))
    actors = _cast(rng, config, n_objects, same_class)
    frames, masks = [], []
    for time in np.linspace(0, 1, n_frames):
        top, left = (int(v) for v in np.rint(pan[0] + (pan[1] - pan[0]) * time))
        canvas = Canvas(world[top : top + size, left : left + size].copy())
        for actor in actors:
            canvas.lay(recolour(resample(actor.drawing, actor.pose(float(time), size), size, size), actor.colours))
        frames.append(canvas.pixels(rng, config.noise))
        masks.append(canvas.owner.astype(np.uint8))
    boxes = [[mask_box(mask == number) for number in range(1, n_objects + 1)] for mask in masks]
    drawn = [actor.drawing for actor in actors]
    return Clip(
        index,
        np.stack(frames),
        np.stack(masks),
        np.array(boxes, np.int32),
        tuple(one.class_id for one in drawn),
        tuple(one.name for one in drawn),
        tuple(one.style for one in drawn),
        background,
    )
