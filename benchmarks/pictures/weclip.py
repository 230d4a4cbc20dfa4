"""What each stage of benchmarks.weclip makes of its first tested images: one row an image, one column an arm."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.pipelines.stages.evaluate import overlay

TILE = (150, 112)  # width and height in pixels
TITLE = 18  # height of a heading
COLOURS = 200


def row(image: Uint8Array, masks: Sequence[Uint8Array], space: LabelSpace) -> Uint8Array:
    """The image, then each mask over it: uint8 (h, w, 3)."""
    return np.concatenate([_fit(image), *(_fit(overlay(image, mask, space)) for mask in masks)], axis=1)


def write_picture(path: Path, headings: Sequence[str], rows: Sequence[Uint8Array]) -> None:
    """Write the rows below one line of headings, in a palette that saves three quarters of the bytes."""
    parts = [_headings(headings), *rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.concatenate(parts)).quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def _fit(tile: Uint8Array) -> Uint8Array:
    """Into a tile, whole, on white, with a white border."""
    width, height = TILE[0] - 4, TILE[1] - 4
    factor = min(width / tile.shape[1], height / tile.shape[0])
    size = (max(1, round(tile.shape[1] * factor)), max(1, round(tile.shape[0] * factor)))
    small = cv2.resize(tile, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    framed = np.full((TILE[1], TILE[0], 3), 255, np.uint8)
    top, left = (TILE[1] - size[1]) // 2, (TILE[0] - size[0]) // 2
    framed[top : top + size[1], left : left + size[0]] = small
    return framed


def _headings(names: Sequence[str]) -> Uint8Array:
    line = np.full((TITLE, TILE[0] * len(names), 3), 255, np.uint8)
    for place, name in enumerate(names):
        at = (place * TILE[0] + 4, TITLE - 5)
        cv2.putText(line, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return line
