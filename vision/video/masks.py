"""Boxes and binary masks inside a frame, and the overlaps that matching needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]  # (n, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Binary = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MaskCrop:
    """A binary mask inside a frame, held as the pixels of its bounding box alone; `area` counts what is set."""

    top: int
    left: int
    pixels: Binary  # (h, w); (0, 0) when nothing is set
    area: int

    @classmethod
    def of(cls, mask: Binary, top: int = 0, left: int = 0) -> "MaskCrop":
        """Crop a mask bool (H, W) whose corner lies at (top, left) of the frame."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            return cls(0, 0, np.zeros((0, 0), np.bool_), 0)
        y, x = int(rows[0]), int(columns[0])
        pixels = mask[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1].copy()
        return cls(top + y, left + x, pixels, int(np.count_nonzero(pixels)))

    @property
    def box(self) -> Boxes:
        """Tight box float32 (4,); zeros when nothing is set."""
        height, width = self.pixels.shape
        if not height:
            return np.zeros(4, np.float32)
        return np.array([self.left, self.top, self.left + width, self.top + height], np.float32)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the box's centre."""
        height, width = self.pixels.shape
        return self.left + width / 2, self.top + height / 2

    def paste(self, shape: tuple[int, int]) -> Binary:
        """The mask bool (H, W) in a frame of this shape."""
        full = np.zeros(shape, np.bool_)
        height, width = self.pixels.shape
        full[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return full

    def moved(self, dx: int, dy: int) -> "MaskCrop":
        """The same pixels elsewhere; may reach outside the frame, for overlaps only."""
        return MaskCrop(self.top + dy, self.left + dx, self.pixels, self.area)


def mask_iou(a: MaskCrop, b: MaskCrop) -> float:
    """Intersection over union of two masks of one frame; 0 when both are empty."""
    top, left = max(a.top, b.top), max(a.left, b.left)
    bottom = min(a.top + a.pixels.shape[0], b.top + b.pixels.shape[0])
    right = min(a.left + a.pixels.shape[1], b.left + b.pixels.shape[1])
    shared = 0
    if bottom > top and right > left:
        shared = int(np.count_nonzero(_window(a, top, left, bottom, right) & _window(b, top, left, bottom, right)))
    union = a.area + b.area - shared
    return shared / union if union else 0.0


def _window(mask: MaskCrop, top: int, left: int, bottom: int, right: int) -> Binary:
    return mask.pixels[top - mask.top : bottom - mask.top, left - mask.left : right - mask.left]


def box_iou(box: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Overlap of one box (4,) with (n, 4): float32 (n,). Boxes without area overlap nothing, touching ones 0."""
    x0, y0 = np.maximum(box[0], others[:, 0]), np.maximum(box[1], others[:, 1])
    x1, y1 = np.minimum(box[2], others[:, 2]), np.minimum(box[3], others[:, 3])
    shared = np.clip(x1 - x0, 0, None) * np.clip(y1 - y0, 0, None)
    union = box_area(box[None])[0] + box_area(others) - shared
    overlap: NDArray[np.float32] = np.divide(shared, union, out=np.zeros(len(others), np.float32), where=union > 0)
    return overlap


def box_area(boxes: Boxes) -> NDArray[np.float32]:
    """Areas float32 (n,); turned-round boxes have none."""
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    area: NDArray[np.float32] = (sides[:, 0] * sides[:, 1]).astype(np.float32)
    return area


def union_box(boxes: Sequence[Boxes]) -> Boxes:
    """The smallest box (4,) that holds all of them."""
    stacked = np.stack(list(boxes))
    hull: Boxes = np.concatenate([stacked[:, :2].min(0), stacked[:, 2:].max(0)]).astype(np.float32)
    return hull


def resolve_overlaps(masks: Sequence[MaskCrop | None], scores: Sequence[float], shape: tuple[int, int]) -> Binary:
    """Exclusive masks bool (n, H, W): a pixel that several claim goes to the highest score, then to the first."""
    out = np.zeros((len(masks), *shape), np.bool_)
    taken = np.zeros(shape, np.bool_)
    for position in sorted(range(len(masks)), key=lambda p: (-scores[p], p)):
        mask = masks[position]
        if mask is not None:
            out[position] = mask.paste(shape) & ~taken
            taken |= out[position]
    return out
