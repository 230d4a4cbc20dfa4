"""The picture of docs/generate.md: drawings of a class that captions name, by the joint-attention starter.

python -m benchmarks.pictures.kinds --out docs/pictures/kinds.png

A row a class, three drawings of one style, each beside its mask (red: the class; grey: uncertain).
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from benchmarks.named_drawings import asked
from benchmarks.pictures.starters import masked, save_in_halves
from benchmarks.starter_generator import MMDIT, READINGS, engine_of

SIDE = 80
CLASSES = ("boat", "bus", "car", "cat", "cow", "dog", "person", "train")
STYLES = ("noto", "twemoji", "fluent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    rows = dict(zip(CLASSES, STYLES * len(CLASSES), strict=False))
    chosen = [
        one
        for one in asked(args.seed)
        if not one.mirrored and rows.get(str(one.drawings[0].class_name)) == one.drawings[0].style
    ]
    drawn = engine_of(MMDIT, mask=READINGS["mmdit_concept"]).draw([one.request for one in chosen])
    for one in chosen:
        print(one.request.prompt)
    tiles = [
        np.hstack([cv2.resize(x, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for x in (d.image, masked(d))])
        for d in drawn
    ]
    lines = [np.hstack(tiles[i : i + 3]) for i in range(0, len(tiles), 3)]
    save_in_halves(lines, args.out)


if __name__ == "__main__":
    main()
