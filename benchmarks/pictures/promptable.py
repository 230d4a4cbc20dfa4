"""The picture of docs/promptable.md: tested photos with their boxes, masks of the model that ships, the truth.

python -m benchmarks.pictures.promptable --data DIR --out docs/pictures/promptable.png
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.box_sets import SETS, Photo, choose, label_space, list_files, open_photo
from benchmarks.common import part_of
from benchmarks.pictures.a2gnn import boxed, fit, write_sheet
from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.labelers.promptable import Config, Promptable, load
from maskmill.labelers.promptable.config import FOR_STARTER
from maskmill.pipelines.stages.evaluate import overlay


def panels(model: Promptable, photo: Photo, space: LabelSpace) -> Uint8Array:
    """Boxes, masks, truth of a photo, side by side."""
    (label,) = model.label([photo.item])
    if label.mask is None:
        raise ValueError(f"{photo.key}: expected masks from its boxes, found {label.detail}")
    shown = (boxed(photo, space), overlay(photo.image, label.mask, space), overlay(photo.image, photo.mask, space))
    return np.concatenate([fit(one) for one in shown], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    space = label_space(args.data)
    model = load(Config(tags="none", **FOR_STARTER), space)
    found = []
    for source in SETS:
        files = [f for f in list_files(args.data, source) if part_of(f.key) == "test"]
        photos = (open_photo(f, space, args.data) for f in choose(files, 2, args.seed))
        found += [panels(model, photo, space) for photo in photos if photo is not None]
    write_sheet([np.concatenate(pair, axis=1) for pair in zip(found[::2], found[1::2], strict=True)], args.out)


if __name__ == "__main__":
    main()
