"""Boxes as whole pixels, and the rules that a label made from boxes keeps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import Uint8Array

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class PixelBox:
    """Rows y0..y1-1 and columns x0..x1-1 of an image, at least one pixel."""

    class_id: int
    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def at(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def area(self) -> int:
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    def scaled(self, factor_y: float, factor_x: float, size: tuple[int, int]) -> "PixelBox":
        """The box on another grid, of `size` (H, W), after multiplying by the factors; every cell that it touches."""
        row = np.array([self.class_id, self.x0 * factor_x, self.y0 * factor_y, self.x1 * factor_x, self.y1 * factor_y])
        return _box(row, size)


def pixel_boxes(boxes: Float32, size: tuple[int, int]) -> tuple[PixelBox, ...]:
    """(N, 5) of class id, x0, y0, x1, y1 to pixels inside an image of `size` (H, W): every pixel that a box touches.

    Boxes that lie wholly outside are left out.
    """
    height, width = size
    inside = [b for b in boxes if b[1] < width and b[2] < height and b[3] > 0 and b[4] > 0]
    return tuple(_box(box, size) for box in inside)


def _box(row: NDArray[np.floating], size: tuple[int, int]) -> PixelBox:
    height, width = size
    # Rounded first: a border that a float32 puts a hair beyond a pixel's edge does not reach the next pixel.
    x0, y0, x1, y1 = (round(float(v), 3) for v in row[1:])
    left, top = min(max(int(np.floor(x0)), 0), width - 1), min(max(int(np.floor(y0)), 0), height - 1)
    right, bottom = max(min(int(np.ceil(x1)), width), left + 1), max(min(int(np.ceil(y1)), height), top + 1)
    return PixelBox(int(row[0]), top, left, bottom, right)


def allowed_area(class_id: int, boxes: Sequence[PixelBox], size: tuple[int, int]) -> Bool:
    """True where a box of the class lies: bool (H, W)."""
    area = np.zeros(size, bool)
    for box in boxes:
        if box.class_id == class_id:
            area[box.at] = True
    return area


def inside(boxes: Sequence[PixelBox], size: tuple[int, int]) -> Bool:
    """True where any box lies: bool (H, W)."""
    area = np.zeros(size, bool)
    for box in boxes:
        area[box.at] = True
    return area


def box_violations(mask: Uint8Array, boxes: Sequence[PixelBox], class_ids: Sequence[int]) -> int:
    """Pixels of a foreground class that lie outside every box of that class."""
    return sum(
        int(((mask == class_id) & ~allowed_area(class_id, boxes, (mask.shape[0], mask.shape[1]))).sum())
        for class_id in class_ids
    )


def empty_boxes(mask: Uint8Array, boxes: Sequence[PixelBox]) -> int:
    """Boxes without a pixel of their class."""
    return sum(not (mask[box.at] == box.class_id).any() for box in boxes)


def clamp(shares: Float32, class_ids: Sequence[int], boxes: Sequence[PixelBox], free: Collection[int] = ()) -> Float32:
    """Shares (K, H, W), background first, without any class but those of `free` outside its boxes; they sum to 1
    again.
    """
    out = shares.copy()
    for channel, class_id in enumerate(class_ids, start=1):
        if class_id in free:
            continue
        out[channel][~allowed_area(class_id, boxes, (shares.shape[1], shares.shape[2]))] = 0
    lost = out.sum(axis=0) <= 1e-7
    out[0][lost] = 1
    normalised: Float32 = out / out.sum(axis=0, keepdims=True)
    return normalised


def fill_empty_boxes(
    mask: Uint8Array, shares: Float32, class_ids: Sequence[int], boxes: Sequence[PixelBox], seeds: Uint8Array
) -> tuple[Uint8Array, int]:
    """Give each box without a pixel of its class its seeds back, else its most probable pixel.

    Returns the mask and the number of boxes that it happened to. Large boxes first, so that small ones, which have
    fewer pixels to lose, keep what they get; a pixel that is some box's last one is not taken.
    """
    out = mask.copy()
    order = sorted(boxes, key=lambda b: (-b.area, b.y0, b.x0, b.class_id))
    empty = [box for box in order if not (out[box.at] == box.class_id).any()]
    for box in empty:
        region = out[box.at]
        own = seeds[box.at] == box.class_id
        if own.any():
            region[own] = box.class_id
    for box in order:
        region = out[box.at]
        if not (region == box.class_id).any():
            free = ~_last_pixels(out, boxes, box)[box.at]
            score = shares[1 + list(class_ids).index(box.class_id)][box.at]
            region[np.unravel_index(np.where(free, score, -1.0).argmax(), score.shape)] = box.class_id
    return out, len(empty)


def _last_pixels(mask: Uint8Array, boxes: Sequence[PixelBox], but: PixelBox) -> Bool:
    """Pixels without which another box would be empty."""
    kept = np.zeros(mask.shape, bool)
    for box in boxes:
        own = mask[box.at] == box.class_id
        if box != but and own.sum() == 1:
            kept[box.at] |= own
    return kept
