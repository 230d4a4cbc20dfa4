"""What scenes are composed of: cut-outs with transparency and whole photos, from unpacked packages of Debian."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from maskmill.starter.drawn import KNOWN_STYLES, load_drawings

Uint8 = NDArray[np.uint8]

#: Kinds that the model is measured on, and pictures that are no things: no cut-out of them is used.
LEFT_OUT = ("horse", "donkey", "mule", "zebra", "pony", "people/", "clothes/", "symbols/", "naturalforces/")
PHOTOS = ("erase", "explore_monuments", "explore_world_animals", "categorization", "explore_world_music")
LONG_SIDE = 360
LEAST_SIDE = 80
SOLID = 128


@dataclass(frozen=True, eq=False)
class Pictures:
    """`cutouts`: uint8 (h, w, 4), colour times alpha. `drawings`: the same, of the drawn world. `photos`: (h, w, 3)."""

    cutouts: tuple[Uint8, ...]
    drawings: tuple[Uint8, ...]
    photos: tuple[Uint8, ...]


def load_pictures(folder: Path) -> Pictures:
    """All that lies unpacked in `folder`, and the drawings that ship.

    Raises:
        FileNotFoundError: no cut-outs or no photos in it.
    """
    cutouts = tuple(_cutouts(folder))
    photos = tuple(_photos(folder))
    if not cutouts or not photos:
        raise FileNotFoundError(
            f"{folder}: expected the unpacked packages tuxpaint-stamps-default, mate-backgrounds and gcompris-qt-data, "
            f"found {len(cutouts)} cut-outs and {len(photos)} photos"
        )
    return Pictures(cutouts, drawn_cutouts(), photos)


def drawn_cutouts() -> tuple[Uint8, ...]:
    """The drawings of the known styles, but for horses and people."""
    drawings = load_drawings(KNOWN_STYLES)
    named = [
        d for name, styles in drawings.by_class.items() if name not in ("horse", "person") for d in styles.values()
    ]
    every = [one for group in (*named, *drawings.distractors.values()) for one in group]
    return tuple(one.levels[0] for one in every)


def _cutouts(folder: Path) -> Iterator[Uint8]:
    for path in sorted(folder.rglob("stamps/**/*.png")):
        if any(word in path.as_posix().lower() for word in LEFT_OUT):
            continue
        found = _opened(path.read_bytes())
        if found is None or found.shape[2] != 4 or max(found.shape[:2]) < LEAST_SIDE:
            continue
        share = float((found[..., 3] >= SOLID).mean())
        if 0.08 <= share <= 0.97:
            yield _premultiplied(_small(found))


def _photos(folder: Path) -> Iterator[Uint8]:
    for path in sorted(folder.rglob("backgrounds/mate/nature/*.jpg")):
        yield from _photo(path.read_bytes())
    for path in sorted(folder.rglob("*.rcc")):
        if path.stem in PHOTOS:
            for part in _embedded(path.read_bytes()):
                yield from _photo(part)


def _photo(content: bytes) -> Iterator[Uint8]:
    """A picture without transparency, not too small; nothing where the bytes are none."""
    found = _opened(content)
    if found is not None and found.shape[2] == 3 and min(found.shape[:2]) >= 2 * LEAST_SIDE:
        yield _small(found, 2 * LONG_SIDE)


def _opened(content: bytes) -> Uint8 | None:
    """Uint8 (H, W, 4) where there is transparency, else (H, W, 3); None where the bytes are no picture."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if clear else "RGB"), np.uint8)
    except (UnidentifiedImageError, OSError):
        return None


def _embedded(content: bytes) -> Iterator[bytes]:
    """The WebP files in a resource file of Qt, which holds them as they are."""
    start = content.find(b"RIFF")
    while start >= 0:
        (length,) = struct.unpack("<I", content[start + 4 : start + 8])
        if content[start + 8 : start + 12] == b"WEBP":
            yield content[start : start + 8 + length]
        start = content.find(b"RIFF", start + 4)


def _small(image: Uint8, side: int = LONG_SIDE) -> Uint8:
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _premultiplied(image: Uint8) -> Uint8:
    alpha = image[..., 3:].astype(np.float32) / 255
    return np.concatenate([np.rint(image[..., :3] * alpha).astype(np.uint8), image[..., 3:]], axis=2)
