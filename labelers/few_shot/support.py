"""The labelled examples of a class: a folder of images and masks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmill.data_contracts import IGNORE, Uint8Array, content_id, decode_image, decode_mask

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, eq=False)
class Exemplar:
    """An image (H, W, 3) and its mask (H, W): 1 = the class, 0 = not, 255 = ignore."""

    name: str
    image: Uint8Array
    mask: Uint8Array


def support_files(folder: str) -> list[tuple[Path, Path]]:
    """(image, mask) paths of FOLDER/images and FOLDER/masks, paired by stem, in order of the stem.

    Raises:
        FileNotFoundError: no such folders, an image without a mask, or no image.
    """
    images, masks = Path(folder) / "images", Path(folder) / "masks"
    if not images.is_dir() or not masks.is_dir():
        raise FileNotFoundError(f"{folder}: expected folders images/ and masks/ with files of the same stems")
    found = []
    for image in sorted(p for p in images.iterdir() if p.suffix.lower() in SUFFIXES):
        mask = masks / f"{image.stem}.png"
        if not mask.is_file():
            raise FileNotFoundError(f"{image}: expected its mask {mask}, found none; add it, or take the image out")
        found.append((image, mask))
    if not found:
        raise FileNotFoundError(f"{images}: expected at least one image, found none")
    return found


def read_supports(folder: str) -> list[Exemplar]:
    """All examples.

    Raises:
        FileNotFoundError: as `support_files`. ContractError: a broken file.
        ValueError: image and mask differ in size, or a mask shows nothing.
    """
    return [_read(image, mask) for image, mask in support_files(folder)]


def _read(image_path: Path, mask_path: Path) -> Exemplar:
    image = decode_image(image_path.read_bytes(), str(image_path))
    raw = decode_mask(mask_path.read_bytes(), str(mask_path))
    if raw.shape != image.shape[:2]:
        raise ValueError(f"{mask_path}: expected the image's size {image.shape[:2]}, found {raw.shape}; make it again")
    binary = bool(set(np.unique(raw).tolist()) <= {0, IGNORE})  # black and white: 255 is the class, not ignore
    mask = (raw > 0).astype(np.uint8)
    if not binary:
        mask[raw == IGNORE] = IGNORE
    if not (mask == 1).any():
        raise ValueError(f"{mask_path}: expected pixels of the class (> 0), found none; leave this example out")
    return Exemplar(image_path.stem, image, mask)


def support_stamp(folder: str) -> str:
    """Hash of all files of the supports."""
    return content_id(*(part for pair in support_files(folder) for p in pair for part in (p.name, p.read_bytes())))
