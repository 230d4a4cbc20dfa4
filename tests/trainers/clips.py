"""Tiny clips of coloured squares, and a segmenter that finds every colour: videos whose truth is known to the pixel."""

from collections.abc import Sequence

import numpy as np

from maskmill.data_contracts import Uint8Array
from maskmill.vision.instances import Detections, unit
from maskmill.vision.video import Boxes, MaskCrop, Region

SIZE = (64, 96)
RED, BLUE, GREEN = (220, 30, 30), (30, 40, 220), (30, 200, 40)
Square = tuple[int, int, int, tuple[int, int, int]]  # top, left, side, colour


def draw(squares: Sequence[Square], size: tuple[int, int] = SIZE) -> Uint8Array:
    """A black frame with squares, later ones in front."""
    image = np.zeros((*size, 3), np.uint8)
    for top, left, side, colour in squares:
        image[max(top, 0) : top + side, max(left, 0) : left + side] = colour
    return image


def box_of(square: Square) -> Boxes:
    top, left, side, _ = square
    return np.array([left, top, left + side, top + side], np.float32)


class ColourSegmenter:
    """One candidate for every colour that a region shows; descriptors and embeddings are mean colours."""

    fingerprint = "colours"

    def __init__(self) -> None:
        self.regions: list[Region | None] = []
        self.patches = 0

    def detect(self, image: Uint8Array, region: Region | None = None) -> Detections:
        self.regions.append(region)
        r = region or Region(0, 0, *image.shape[:2])
        cut = image[r.top : r.top + r.height, r.left : r.left + r.width]
        colours = sorted({tuple(int(v) for v in c) for c in cut.reshape(-1, 3) if c.any()})
        masks = [MaskCrop.of((cut == colour).all(-1), r.top, r.left) for colour in colours]
        if not masks:
            return Detections.none(3)
        boxes = np.stack([mask.box for mask in masks])
        scores = np.full(len(masks), 0.9, np.float32)
        return Detections(boxes, scores, tuple(masks), unit(np.array(colours, np.float32)))

    def embed(self, image: Uint8Array, boxes: Sequence[Boxes] | Boxes) -> np.ndarray:  # type: ignore[type-arg]
        self.patches += len(boxes)
        rows = []
        for box in boxes:
            x0, y0, x1, y1 = (max(int(v), 0) for v in box)
            rows.append(image[y0:y1, x0:x1].reshape(-1, 3).astype(np.float32).mean(0))
        return unit(np.stack(rows))
