"""The picture of docs/few_shot.md: one labelled scene each, what the training-free priors see in another, and the mask.

    python -m benchmarks.pictures.few_shot --out docs/pictures/few_shot.png

Columns: support with its object outlined, query, plain cosine prior, VVP, VTP with PIR, the labeler's mask.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts import LabelSpace, Uint8Array, load_label_space
from maskmill.labelers import LabelItem
from maskmill.labelers.few_shot.config import Config
from maskmill.labelers.few_shot.labeler import FewShot, PriorEngine
from maskmill.labelers.few_shot.support import Exemplar
from maskmill.starter.drawn import UNSEEN_STYLES, SceneConfig, render_scene
from maskmill.trainers.few_shot.config import Config as NetworkConfig
from maskmill.trainers.few_shot.features import Featurizer

CLASSES = {"aeroplane": (2, 5), "cat": (11, 7), "bus": (4, 9), "sheep": (1, 6)}  # scenes of support and query
SIDE = 224
SHOWN = 150
COLOURS = 200
OUTLINE = (255, 40, 120)


def scene(name: str, number: int) -> Exemplar:
    """A scene in the unseen style with one object of the class and a thing outside VOC."""
    config = SceneConfig(
        size=SIDE, styles=UNSEEN_STYLES, classes=(name,), max_objects=1, min_distractors=1, max_distractors=1, seed=3
    )
    found = render_scene(config, number)
    return Exemplar(f"{name} {number}", found.image, (found.mask == found.instances[0].class_id).astype(np.uint8))


def row(name: str, space: LabelSpace, featurizer: Featurizer) -> Uint8Array:
    """One class: six tiles side by side."""
    support, query = (scene(name, number) for number in CLASSES[name])
    shot, seen = featurizer.shot(support.image, support.mask), featurizer.image(query.image)
    class_id = space.find(name).id
    maps = [
        featurizer.plain(seen, [shot]),
        featurizer.vvp(seen, [shot]).mean(dim=0),
        featurizer.vtp(seen, class_id),
    ]
    config = Config(support="", class_name=name)
    labeler = FewShot(config, PriorEngine(config, space, [support]), class_id, 0)
    mask = labeler.label([LabelItem(name, query.image)])[0].mask
    found = np.zeros_like(query.mask) if mask is None else (mask == class_id).astype(np.uint8)
    tiles = [outlined(support.image, support.mask), query.image, *(heat(m.numpy()) for m in maps)]
    tiles.append(outlined(query.image, found, filled=True))
    return np.concatenate([fit(tile) for tile in tiles], axis=1)


def outlined(image: Uint8Array, mask: Uint8Array, *, filled: bool = False) -> Uint8Array:
    """The mask's border on the image; with `filled`, what lies outside is darkened."""
    out = np.where(mask[..., None] > 0, image, image // 3).astype(np.uint8) if filled else image.copy()
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, OUTLINE, 2)
    return out


def heat(map_: NDArray[np.float32]) -> Uint8Array:
    """A map in [0, 1] as colours."""
    full = cv2.resize(map_.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    coloured = cv2.applyColorMap(np.rint(255 * full.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    rgb: Uint8Array = cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB).astype(np.uint8)
    return rgb


def fit(tile: Uint8Array) -> Uint8Array:
    """To the size shown, with a white border."""
    small = cv2.resize(tile, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA)
    framed: Uint8Array = cv2.copyMakeBorder(small, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)).astype(
        np.uint8
    )
    return framed


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    space = load_label_space("voc")
    config = NetworkConfig(prior="pi_clip")
    names = {c.id: c.text for c in space.classes}
    featurizer = Featurizer(config, names, (), space.background_prompts, torch.device("cpu"))
    picture = np.concatenate([row(name, space, featurizer) for name in CLASSES])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    palette = Image.fromarray(picture).quantize(COLOURS, dither=Image.Dither.NONE)  # a quarter of the bytes
    palette.save(given.out, optimize=True)


if __name__ == "__main__":
    main()
