"""From logits to a label: which of the model's readings, who owns a pixel, how sure that is."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.data_contracts import IGNORE, Instance, Uint8Array

Float32 = NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Answer:
    """One prompt's mask as the model gave it, small, and how good it is said to be."""

    class_id: int
    logits: Tensor  # float32 (h, w) of the model's own grid
    score: float  # 0 to 1: predicted IoU times stability times the prompt's own weight
    box: Box | None = None  # pixels outside are cut off
    restore: Callable[[Tensor], Tensor] | None = None  # its way to the photo's size; None: it has that size

    @property
    def whole(self) -> Tensor:
        """Logits float32 (H, W) at the photo's size, "not here" outside of its box."""
        return _cut(self.logits if self.restore is None else self.restore(self.logits), self.box)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A label map with what it is made of."""

    mask: Uint8Array  # (H, W)
    confidence: Uint8Array  # (H, W)
    instances: tuple[Instance, ...]
    shares: Float32 | None = None  # (K + 1, H, W), background first, where they were asked for


def compose(
    answers: Sequence[Answer],
    size: tuple[int, int],
    background: int,
    classes: Sequence[int] = (),
) -> Drawn:
    """The label map of a photo of `size` (H, W): a pixel belongs to the best-scored object that holds it.

    Confidence is the probability of the owner's own mask there; of the background that no object is there. One mask at
    a time is enlarged, so memory does not grow with the number of objects. `classes` asks for `shares` of them.
    """
    mask, taken = np.full(size, background, np.uint8), np.zeros(size, bool)
    sure, most = np.zeros(size, np.float32), np.zeros(size, np.float32)
    maps = np.zeros((len(classes), *size), np.float32) if classes else None
    instances: dict[int, Instance] = {}
    for position in sorted(range(len(answers)), key=lambda i: (-answers[i].score, i)):
        one = answers[position]
        logits = one.whole
        p = logits.sigmoid().cpu().numpy()
        own = (logits > 0).cpu().numpy()
        np.maximum(most, p, out=most)
        if maps is not None:
            np.maximum(maps[classes.index(one.class_id)], p, out=maps[classes.index(one.class_id)])
        if own.any():
            instances[position] = Instance.of(one.class_id, own, score=round(one.score, 6))
            fresh = own & ~taken
            mask[fresh], sure[fresh] = one.class_id, p[fresh]
            taken |= own
    sure[~taken] = 1 - most[~taken]
    found = tuple(instances[position] for position in sorted(instances))
    shares = None if maps is None else shares_of(maps)
    return Drawn(mask, np.rint(255 * sure).astype(np.uint8), found, shares)


def _cut(logits: Tensor, box: Box | None) -> Tensor:
    """Logits (H, W) that say "not here" outside of every pixel that the box touches."""
    if box is None:
        return logits
    left, top = int(np.floor(box[0])), int(np.floor(box[1]))
    right, bottom = max(int(np.ceil(box[2])), left + 1), max(int(np.ceil(box[3])), top + 1)
    out = torch.full_like(logits, -20.0)
    out[top:bottom, left:right] = logits[top:bottom, left:right]
    return out


def shares_of(maps: Float32) -> Float32:
    """Shares (K + 1, H, W) that sum to 1, background first, from the objects' probabilities a class (K, H, W)."""
    stack = np.concatenate([1 - maps.max(axis=0, keepdims=True), maps])
    return np.asarray(stack / np.maximum(stack.sum(axis=0, keepdims=True), 1e-7), np.float32)


def owned(mask: Uint8Array, instances: Iterable[Instance], classes: Sequence[int]) -> tuple[Instance, ...]:
    """Objects that fit another label map: of each class's pixels every object keeps its own, and what none held goes to
    the nearest object of the class.
    """
    import cv2

    objects = [(one, one.mask) for one in instances]
    found = []
    for class_id in classes:
        area = mask == class_id
        own = [(one, pixels & area) for one, pixels in objects if one.class_id == class_id and pixels is not None]
        own = [(one, pixels) for one, pixels in own if pixels.any()]
        if not area.any():
            continue
        if not own:
            found.append(Instance.of(class_id, area))
            continue
        bare = area & ~np.logical_or.reduce([pixels for _, pixels in own])
        away = np.stack([cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, 3) for _, pixels in own])
        nearest = away.argmin(axis=0)
        found += [
            Instance.of(class_id, pixels | (bare & (nearest == number)), score=one.score)
            for number, (one, pixels) in enumerate(own)
        ]
    return tuple(found)


def unsure(drawn: Drawn, least: float) -> Uint8Array:
    """The label map with 255 where confidence is below `least`."""
    mask = drawn.mask.copy()
    mask[drawn.confidence < 255 * least] = IGNORE
    return mask
