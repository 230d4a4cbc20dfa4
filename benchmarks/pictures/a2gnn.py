"""The picture of docs/a2gnn.md: boxes, seeds, GrabCut, the labels of `a2gnn` and the truth on one tested photo a set.

python -m benchmarks.pictures.a2gnn --data DIR --out docs/pictures/a2gnn.png
"""

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.box_labels import CUTS, plain_labels
from benchmarks.box_sets import SETS, Photo, choose, label_space, list_files, open_photo
from benchmarks.common import is_train_key
from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array
from maskmill.labelers.a2gnn import A2gnn, Config, load
from maskmill.labelers.a2gnn.boxes import pixel_boxes
from maskmill.pipelines.stages.evaluate import overlay

SIDE = 220


def panels(model: A2gnn, photo: Photo, space: LabelSpace) -> list[Uint8Array]:
    """Boxes, seeds, GrabCut, a2gnn, truth, each laid over the photo."""
    item = photo.item
    task = model.task(item)
    label = model.label([item])[0].mask
    if task is None or label is None:
        raise ValueError(f"{photo.key}: expected an image with boxes, found none")
    unknown = task.seeds.labels == IGNORE
    seeds = overlay(photo.image, np.where(unknown, 0, task.seeds.labels).astype(np.uint8), space)
    seeds[unknown] = 255 - (255 - seeds[unknown]) // 3
    cut = replace(model, config=Config.model_validate(CUTS)).task(item)
    assert cut is not None
    maps = (plain_labels(model, "grabcut", cut), label, photo.mask)
    return [boxed(photo, space), seeds, *(overlay(photo.image, one, space) for one in maps)]


def boxed(photo: Photo, space: LabelSpace) -> Uint8Array:
    """The photo with its boxes in their classes' colours."""
    drawn = photo.image.copy()
    palette = np.array(space.palette, np.uint8).reshape(256, 3)
    for box in pixel_boxes(photo.item.boxes, (photo.mask.shape[0], photo.mask.shape[1])):
        colour = tuple(int(v) for v in palette[box.class_id])
        cv2.rectangle(drawn, (box.x0, box.y0), (box.x1 - 1, box.y1 - 1), colour, 2)
    return drawn


def fit(panel: Uint8Array) -> Uint8Array:
    """The panel in a white square of `SIDE` pixels."""
    factor = SIDE / max(panel.shape[:2])
    size = (max(1, round(panel.shape[1] * factor)), max(1, round(panel.shape[0] * factor)))
    canvas: Uint8Array = np.full((SIDE, SIDE, 3), 255, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
    return canvas


def write_sheet(rows: list[Uint8Array], out: Path) -> None:
    """Rows of one width below each other, in 64 colours: the file stays small, and the eye sees no difference."""
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, axis=0)).quantize(64).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--affinity", default=None, help="artifact of trainer affinity")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    space = label_space(args.data)
    model = load(Config(affinity=args.affinity), space)
    rows = []
    for source in SETS:
        files = [f for f in list_files(args.data, source) if not is_train_key(f.key)]
        for photo in (open_photo(f, space, args.data) for f in choose(files, 1, args.seed)):
            if photo is not None:
                rows.append(np.concatenate([fit(panel) for panel in panels(model, photo, space)], axis=1))
    write_sheet(rows, args.out)


if __name__ == "__main__":
    main()
