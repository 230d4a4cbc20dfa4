"""From what is known of a photo to prompts: boxes with the points in them, points, strokes, regions of class maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array
from maskmill.labelers.base import LabelItem
from maskmill.vision.promptable import Call

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
NOWHERE: Float32 = np.zeros((0, 2), np.float32)


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is said of one object. Coordinates in pixels of the photo, as the library takes them."""

    class_id: int
    box: tuple[float, float, float, float] | None = None
    on: Float32 = field(default_factory=lambda: NOWHERE)  # (n, 2): x, y of points on the object
    off: Float32 = field(default_factory=lambda: NOWHERE)  # (m, 2): and of points that are not
    weight: float = 1.0  # of whoever found it

    @property
    def shape(self) -> tuple[int, bool]:
        """Prompts of one shape pass through the decoder together. Padded to one shape they would not be the same
        prompts: the models attend to padding.
        """
        return len(self.on) + len(self.off), self.box is not None


def item_prompts(item: LabelItem, space: LabelSpace, *, objects: str = "class", stroke_points: int = 5) -> list[Prompt]:
    """The prompts in a photo's own weak label; empty where it has neither box nor point nor stroke of a class.

    A point of a box's class that lies in it belongs to the smallest such box, points of others in it say what it does
    not hold. All other points and strokes are prompts of their own, class by class (`objects: class`) or one by one.
    """
    height, width = item.image.shape[:2]
    dots = [*_points(item, space), *_strokes(item.scribble, space, stroke_points)]
    kept = [i for i, row in enumerate(item.boxes) if int(row[0]) in space.by_id and _inside(row, width, height)]
    boxes = [item.boxes[i] for i in kept]
    weights = [1.0 if item.box_scores is None else float(item.box_scores[i]) for i in kept]
    prompts, taken = [], np.zeros(len(dots), bool)
    owners = [_owner(dot, boxes) for dot in dots]
    for number, row in enumerate(boxes):
        inside = [i for i, owner in enumerate(owners) if owner == number]
        taken[inside] = True
        off = _joined([d.at[_within(d.at, row)] for d in dots if d.class_id != int(row[0])])
        on = _joined([dots[i].at for i in inside])
        prompts.append(Prompt(int(row[0]), _clipped(row, width, height), on, off, weights[number]))
    left = [dot for dot, gone in zip(dots, taken, strict=True) if not gone and dot.class_id in space.by_id]
    for class_id in sorted({dot.class_id for dot in left}):
        own = [dot.at for dot in left if dot.class_id == class_id]
        off = _joined([dot.at for dot in dots if dot.class_id != class_id])
        groups = [[at] for at in own] if objects == "each" else [own]
        prompts += [Prompt(class_id, None, _joined(group), off) for group in groups]
    return prompts


@dataclass(frozen=True, eq=False)
class Dots:
    """A point, or the points of one stroke."""

    class_id: int
    at: Float32  # (n, 2): x, y


def _points(item: LabelItem, space: LabelSpace) -> Iterator[Dots]:
    height, width = item.image.shape[:2]
    for class_id, x, y in item.points:
        if int(class_id) in space.allowed_ids and 0 <= x < width and 0 <= y < height:
            yield Dots(int(class_id), np.array([[x, y]], np.float32))


def _strokes(scribble: Uint8Array | None, space: LabelSpace, count: int) -> Iterator[Dots]:
    """Points along each connected stroke of each class, the background among them."""
    if scribble is None:
        return
    for class_id in np.unique(scribble):
        if class_id == IGNORE or int(class_id) not in space.allowed_ids:
            continue
        number, parts, stats, _ = cv2.connectedComponentsWithStats((scribble == class_id).astype(np.uint8))
        for part in range(1, number):
            x, y, w, h = (int(v) for v in stats[part, :4])
            along = stroke_points(parts[y : y + h, x : x + w] == part, count)
            yield Dots(int(class_id), along + np.array([x, y], np.float32))


def stroke_points(stroke: Bool, count: int) -> Float32:
    """At most `count` points (n, 2) x, y along a stroke bool (h, w): from an end of its middle line, each the farthest
    from those before.
    """
    inner = cv2.distanceTransform(np.pad(stroke, 1).astype(np.uint8), cv2.DIST_L2, 3)
    ridge = (inner >= cv2.dilate(inner, np.ones((3, 3), np.uint8)))[1:-1, 1:-1] & stroke
    y, x = np.nonzero(ridge)
    at = np.stack([x, y], axis=1).astype(np.float32)
    far = np.square(at - at.mean(axis=0)).sum(axis=1)
    chosen = [int(far.argmax())]
    away = np.square(at - at[chosen[0]]).sum(axis=1)
    while len(chosen) < count and away.max() > 0:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.square(at - at[chosen[-1]]).sum(axis=1))
    found: Float32 = at[chosen]
    return found


def map_prompts(
    maps: Float32, ids: Sequence[int], size: tuple[int, int], threshold: float, share: float
) -> list[Prompt]:
    """Prompts from class maps (K, h, w) in [0, 1]: of each class the regions above `threshold` of the map's peak that
    have `share` of the largest one's area, as box and peak in a photo of `size` (H, W).
    """
    prompts = []
    for class_id, small in zip(ids, maps, strict=True):
        full = cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        if full.max() <= 0:
            continue
        above = (full >= threshold * full.max()).astype(np.uint8)
        number, parts, stats, _ = cv2.connectedComponentsWithStats(above)
        areas = stats[1:number, cv2.CC_STAT_AREA]
        for part in 1 + np.flatnonzero(areas >= share * areas.max()):
            x, y, w, h = (int(v) for v in stats[part, :4])
            inside = np.where(parts[y : y + h, x : x + w] == part, full[y : y + h, x : x + w], -1)
            top, left = np.unravel_index(int(inside.argmax()), inside.shape)
            peak = np.array([[x + left, y + top]], np.float32)
            prompts.append(Prompt(class_id, (float(x), float(y), float(x + w), float(y + h)), peak))
    return prompts


def calls(prompts: Sequence[Prompt], most: int) -> Iterator[tuple[list[int], Call]]:
    """Positions of prompts of one shape, at most `most` at a time, and the call that asks for them."""
    shapes: dict[tuple[int, bool], list[int]] = {}
    for position, prompt in enumerate(prompts):
        shapes.setdefault(prompt.shape, []).append(position)
    for (points, boxed), positions in shapes.items():
        for start in range(0, len(positions), most):
            chosen = positions[start : start + most]
            own = [prompts[p] for p in chosen]
            at = signs = corners = None
            if points:
                at = torch.from_numpy(np.stack([np.concatenate([p.on, p.off]) for p in own]))
                signs = torch.tensor([[1] * len(p.on) + [0] * len(p.off) for p in own])
            if boxed:
                corners = torch.tensor([p.box for p in own], dtype=torch.float32)
            yield chosen, Call(at, signs, corners)


def _joined(parts: Sequence[Float32]) -> Float32:
    found: Float32 = np.concatenate([NOWHERE, *parts]).astype(np.float32)
    return found


def _inside(row: Float32, width: int, height: int) -> bool:
    return bool(row[1] < width and row[2] < height and row[3] > 0 and row[4] > 0)


def _clipped(row: Float32, width: int, height: int) -> tuple[float, float, float, float]:
    return (max(float(row[1]), 0.0), max(float(row[2]), 0.0), min(float(row[3]), width), min(float(row[4]), height))


def _within(at: Float32, row: Float32) -> Bool:
    """Which points (n, 2) lie in a box."""
    found: Bool = (at[:, 0] >= row[1]) & (at[:, 0] < row[3]) & (at[:, 1] >= row[2]) & (at[:, 1] < row[4])
    return found


def _owner(dot: Dots, boxes: Sequence[Float32]) -> int | None:
    """The smallest box of the class that holds all of the points; None where none does."""
    fits = [i for i, row in enumerate(boxes) if int(row[0]) == dot.class_id and _within(dot.at, row).all()]
    return min(fits, key=lambda i: (boxes[i][3] - boxes[i][1]) * (boxes[i][4] - boxes[i][2]), default=None)
