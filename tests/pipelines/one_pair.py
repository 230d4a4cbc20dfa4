"""One photo and one mask in a folder, and what becomes of them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from ingest_sets import Row, ingest, mask_of, photo, put
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.ingest.folder import FolderSource

SPACE = LabelSpace.from_names(["cat", "dog"])
Mask = NDArray[np.uint8]


def shape(value: int = 1) -> Mask:
    """A rectangle of 72 pixels on 20 x 30."""
    mask = np.zeros((20, 30), np.uint8)
    mask[4:10, 3:15] = value
    return mask


def save(pixels: NDArray[Any] | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Pixels as file bytes."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def folder(
    root: Path, mask: bytes, image: bytes | None = None, *, names: tuple[str, str] = ("a.png", "a.png"), **options: Any
) -> tuple[Row | None, str]:
    """The one row of a folder with one pair, or the detail of its reject."""
    put(root / f"set/images/{names[0]}", photo(1, 20, 30, "PNG") if image is None else image)
    put(root / f"set/masks/{names[1]}", mask)
    run = root / f"run{len(list(root.glob('run*')))}"
    rows, rejects = ingest(FolderSource.model_validate({"root": str(root / "set"), **options}), run, SPACE)
    return (rows[0], "") if rows else (None, rejects[0]["detail"])


def read(root: Path, mask: bytes, image: bytes | None = None, **options: Any) -> Mask:
    """The mask that is read of the pair."""
    row, detail = folder(root, mask, image, **options)
    assert row is not None, detail
    return mask_of(row)


def refused(root: Path, mask: bytes, image: bytes | None = None, **options: Any) -> str:
    """Why the pair is not."""
    row, detail = folder(root, mask, image, **options)
    assert row is None
    return detail
