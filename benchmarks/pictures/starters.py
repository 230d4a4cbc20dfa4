"""The picture of docs/generate.md: the same prompts drawn and masked by both starter generators.

python -m benchmarks.pictures.starters --out docs/pictures/starters.png

A row a prompt. Columns: the UNet's image and its mask; the joint-attention starter's image, then its concept, cross and
anchor masks. Red: the class; grey: uncertain.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.starter_generator import MMDIT, READINGS, engine_of, requests_for
from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.generators.text_to_image import Drawn

SIDE, ROWS = 80, 8


def masked(drawn: Drawn) -> Uint8Array:
    """The image under its mask."""
    over = drawn.image.copy()
    for ids, colour in ((list(drawn.request.class_ids), (255, 0, 0)), ([IGNORE], (128, 128, 128))):
        here = np.isin(drawn.mask, ids)
        over[here] = over[here] // 2 + np.array(colour, np.uint8) // 2
    return over


def save_in_halves(rows: list[NDArray[Any]], out: Path) -> None:
    """An even number of rows, the second half beside the first: a picture for a page, not for measuring."""
    half = len(rows) // 2
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack([np.vstack(rows[:half]), np.vstack(rows[half:])])).quantize(128).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    requests = requests_for(1, args.seed)[::2][:ROWS]
    first = engine_of("starter").draw(requests)
    read = engine_of(MMDIT).compare(requests, READINGS)
    rows = []
    for k, one in enumerate(first):
        others = [read[name][k] for name in READINGS]
        shown = [one.image, masked(one), others[0].image, *(masked(other) for other in others)]
        rows.append(np.hstack([cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for each in shown]))
    save_in_halves(rows, args.out)


if __name__ == "__main__":
    main()
