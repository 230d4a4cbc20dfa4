"""What a newcomer brings: folders of pairs. Drawn ones, and CCP and DAVIS: a few real photos where MASKMILL_DATA has
them, else drawings in the same layout, so that a fresh clone can act the hour.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskmill.data_contracts import Uint8Array, decode_image, load_label_space
from maskmill.pipelines.ingest.drawn import DrawnSource

PAIRS, SIDE = 12, 128
GARMENTS = (41, 19, 48, 31, 39)  # skin, hair, shirt, pants, shoes, from top to bottom of whatever is drawn
CLIPS = {"blackswan": "bird", "cows": "cow", "dog": "dog"}  # sequence: what it shows


PLAIN = {"styles": ["noto"], "max_drawings": 1, "min_length": 0.85, "max_length": 0.95, "hue_jitter": 0, "turn": 0}
PLAIN |= {"roam": 0.2, "backgrounds": ["sky", "wall"]}  # large, and nothing beside them that CLIP would rather name


def drawn(classes: str = "dog", count: int = PAIRS, **more: Any) -> list[tuple[Uint8Array, Uint8Array]]:
    """Pictures of one thing, and 1 where it is."""
    scene = {"size": SIDE, "max_objects": 1, "classes": [classes], "ignore_band": 0, **more}
    source = DrawnSource.model_validate({"count": count, "faulty": 0, "scene": scene})
    found = []
    for entry in source.entries():
        raw = source.load(entry, load_label_space("voc"))
        assert raw.drawn is not None
        found.append((decode_image(raw.image), ((raw.drawn > 0) & (raw.drawn < 255)).astype(np.uint8)))
    return found


def write_pairs(folder: Path, value: int) -> None:
    """Pairs of drawn animals; what is drawn has `value` in the masks."""
    for number, (image, thing) in enumerate(drawn()):
        write_pair(folder, f"{number:02d}", image, thing * np.uint8(value))


def write_pair(
    folder: Path, stem: str, image: Uint8Array, mask: Uint8Array, names: tuple[str, str] = ("images", "masks")
) -> None:
    for name, suffix, pixels in zip(names, (".jpg", ".png"), (image, mask), strict=True):
        path = folder / name / f"{stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_ccp(folder: Path) -> None:
    """Street photos with the fine ids of CCP; of drawings, bands from top to bottom are garments."""
    if real := real_files("ccp", "images/*.jpg"):
        take(real, "ccp", folder, "images", "masks")
        return
    for number, (image, thing) in enumerate(drawn("person")):
        rows = np.linspace(0, len(GARMENTS), SIDE, endpoint=False).astype(int)
        bands = np.array(GARMENTS, np.uint8)[rows][:, None]
        write_pair(folder, f"{number + 1:04d}", image, np.where(thing > 0, bands, 0).astype(np.uint8))


def write_davis(folder: Path) -> None:
    """Frames in folders a sequence, their masks 0 and 1."""
    names = ("JPEGImages", "Annotations")
    if real := real_files("davis", *(f"JPEGImages/{clip}/*.jpg" for clip in CLIPS)):
        take(real, "davis", folder, *names)
        return
    for clip, thing_shown in CLIPS.items():
        for number, (image, thing) in enumerate(drawn(thing_shown, PAIRS // len(CLIPS), **PLAIN)):
            write_pair(folder, f"{clip}/{number:05d}", image, thing, names)


def real_files(name: str, *patterns: str) -> list[Path]:
    """A few files of a real set, evenly from each pattern; none where it is not there."""
    root = Path(os.environ.get("MASKMILL_DATA", "/nowhere")) / name
    count = PAIRS // len(patterns)
    found = [sorted(root.glob(pattern)) for pattern in patterns]
    return [path for paths in found for path in paths[:: max(1, len(paths) // count)][:count]]


def take(photos: list[Path], name: str, folder: Path, images: str, masks: str) -> None:
    """Copy photos with their masks, in their layout."""
    root = Path(os.environ["MASKMILL_DATA"]) / name
    for photo in photos:
        within = photo.relative_to(root / images)
        for part, file in ((images, within), (masks, within.with_suffix(".png"))):
            target = folder / part / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / part / file, target)
