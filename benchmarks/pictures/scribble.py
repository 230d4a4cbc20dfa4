"""A picture of strokes and what became of them: rows of photo, strokes, pseudo-label and true mask, from artifacts that
training left behind.

    python -m benchmarks.pictures.scribble --data DIR --dfr runs/dfr/artifact --scwssod runs/scwssod/artifact \\
        --out docs/pictures/scribbles.png

Shows slices and photos of the tested part alone; the labels are those of the labeler `scribble`, given the strokes.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import is_train_key
from benchmarks.dfr import acdc_slices
from benchmarks.scribble_sets import Scribbled
from benchmarks.scwssod import Size, photos, real_strokes
from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, encode_image, load_label_space, write_bytes
from maskmill.labelers import LabelItem
from maskmill.labelers.scribble import Config, load
from maskmill.pipelines.stages.evaluate import overlay

SIDE = 150


def rows(pictures: Sequence[Scribbled], space: LabelSpace, artifact: str) -> Iterator[Uint8Array]:
    """Photo, strokes, pseudo-label and truth of each picture, side by side."""
    labeler = load(Config(artifact=artifact, min_decided=0.0), space)
    for picture in pictures:
        found = labeler.label([LabelItem(picture.key, picture.image, scribble=picture.scribble)])[0].mask
        blank = np.full(picture.mask.shape, IGNORE, np.uint8)
        wide: Uint8Array = cv2.erode(picture.scribble, np.ones((3, 3), np.uint8)).astype(
            np.uint8
        )  # 255 is the highest: erosion widens strokes
        maps = (blank, wide, blank if found is None else found, picture.mask)
        yield np.hstack([tile(picture.image, labels, space, solid=labels is wide) for labels in maps])


def tile(image: Uint8Array, labels: Uint8Array, space: LabelSpace, *, solid: bool) -> Uint8Array:
    """A square cut from the middle, with its labels laid over: strokes solid, masks see-through."""
    if solid:
        colours = np.array(space.palette, np.uint8).reshape(256, 3)
        colours[0] = (0, 200, 255)  # the background's own colour is black
        shown = np.where((labels != IGNORE)[..., None], colours[labels], image)
    else:
        shown = overlay(image, labels, space) if (labels != IGNORE).any() else image
    height, width = labels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = np.ascontiguousarray(shown[top : top + side, left : left + side])
    small: Uint8Array = cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return small


def draw(data: Path, dfr: str | None, scwssod: str | None, out: str, count: int) -> None:
    """Write the PNG."""
    drawn: list[Uint8Array] = []
    if dfr is not None:
        listed = [(key, read) for key, read in acdc_slices(data) if not is_train_key(key)]
        chosen = [read() for _, read in listed[3 :: max(1, len(listed) // count)][:count]]
        drawn += rows(chosen, load_label_space("acdc"), dfr)
    if scwssod is not None:
        held = [p for p in photos(data, Size(1, 1, 1, 1)) if not is_train_key(p.key)]
        chosen = [*held[:: max(1, len(held) // (count - 1))][: count - 1], *islice(real_strokes(data), 1)]
        drawn += rows(chosen, load_label_space("foreground"), scwssod)
    half = -(-len(drawn) // 2)
    blocks = [np.vstack(part) for part in (drawn[:half], drawn[half:]) if part]
    height = max(block.shape[0] for block in blocks)
    padded = [np.pad(b, ((0, height - b.shape[0]), (0, 8), (0, 0)), constant_values=255) for b in blocks]
    write_bytes(out, encode_image(np.hstack(padded)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--dfr", help="artifact of dfr on acdc")
    parser.add_argument("--scwssod", help="artifact of scwssod")
    parser.add_argument("--out", required=True, help="PNG file")
    parser.add_argument("--count", type=int, default=4, help="rows of each")
    given = parser.parse_args()
    draw(given.data, given.dfr, given.scwssod, given.out, given.count)
