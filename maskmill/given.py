"""Images and masks as people hand them over (paths, Pillow images, arrays) to what the rooms work on."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts import (
    ContractError,
    LabelSpace,
    Problem,
    Reason,
    Uint8Array,
    decode_image,
    decode_mask,
    encode_image,
    encode_mask,
    load_label_space,
    read_bytes,
)

ImageLike = str | Path | Image.Image | NDArray[Any]
Classes = Sequence[str] | LabelSpace | str

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
FIX_IMAGE = "give a path, a Pillow image, or a uint8 array; images in [0, 1] times 255, channels last"
FIX_MASK = "give a path, a Pillow image, or an array of class ids; of logits take the argmax first"


def several(images: Sequence[ImageLike], what: str) -> list[ImageLike]:
    """The images as a list.

    Raises:
        TypeError: one image where a list of them was expected.
    """
    if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        one = f"an array of shape {images.shape}" if isinstance(images, np.ndarray) else f"{images!r:.80}"
        raise TypeError(f"{what}: expected a list, one entry an image, found {one}; put brackets around a single one")
    return list(images)


def as_space(classes: Classes) -> LabelSpace:
    """Class names (ids 1, 2, … in their order, 0 = background), a label space, or the name or YAML file of one.

    Raises:
        ValueError: no class, or a name twice. FileNotFoundError: no label space of that name.
    """
    if isinstance(classes, LabelSpace):
        return classes
    if isinstance(classes, str):
        return load_label_space(classes)
    if not (names := list(classes)):
        raise ValueError("classes: expected at least one class name, found none")
    return LabelSpace.from_names(names)


def name_of(image: ImageLike, position: int) -> str:
    """What messages call an image: its path, or its place in the list."""
    return str(image) if isinstance(image, str | Path) else f"image {position}"


def image_file(image: ImageLike, where: str) -> bytes:
    """The encoded image: a file's bytes as they are, anything else as PNG.

    Raises:
        ContractError: no such file, or no image; names it.
    """
    return _read(image, where) if isinstance(image, str | Path) else encode_image(pixels_of(image, where))


def pixels_of(image: ImageLike, where: str) -> Uint8Array:
    """uint8 (H, W, 3) RGB, upright. Arrays may be grey (H, W) or have a fourth channel (alpha, laid over black).

    Raises:
        ContractError: no such file, a broken one, or an array of another shape or dtype; names it.
    """
    if isinstance(image, str | Path):
        return decode_image(_read(image, where), where)
    if isinstance(image, Image.Image):
        return decode_image(_saved(image), where)
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        found = f"{array.dtype} {array.shape}"
        raise ContractError(where, Problem(Reason.UNDECODABLE_IMAGE, "uint8 (H, W, 3)", found, FIX_IMAGE))
    return decode_image(_saved(Image.fromarray(np.ascontiguousarray(array))), where)


def mask_file(mask: ImageLike, where: str) -> bytes:
    """The encoded mask: a file's bytes as they are, anything else as PNG of the same values.

    Raises:
        ContractError: no such file, or an array of another shape or dtype; names it.
    """
    if isinstance(mask, str | Path):
        return _read(mask, where, Reason.MISSING_MASK)
    return _saved(mask) if isinstance(mask, Image.Image) else encode_mask(ids_of(mask, where))


def ids_of(mask: ImageLike, where: str) -> Uint8Array:
    """Class ids uint8 (H, W) of a mask: a file or Pillow image (palette index or grey value), or an array of integers
    or of bool (True = class 1).

    Raises:
        ContractError: another shape or dtype, or ids outside 0..255; names it.
    """
    if isinstance(mask, str | Path | Image.Image):
        return decode_mask(mask_file(mask, where), where)
    array = np.asarray(mask)
    whole = array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer)
    if array.ndim != 2 or not whole or (array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255):
        within = f" with values {array.min()}..{array.max()}" if array.ndim == 2 and array.size else ""
        found = f"{array.dtype} {array.shape}{within}"
        raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "ids 0..255 as (H, W)", found, FIX_MASK))
    return array.astype(np.uint8)


def _saved(image: Image.Image) -> bytes:
    """A file of the image without loss, so that it is read by the very rules of files."""
    kind = "TIFF" if image.mode in ("CMYK", "YCbCr", "LAB", "F") else "PNG"
    plain = image if kind == "TIFF" or image.mode in PNG_MODES else image.convert("RGB")
    buffer = io.BytesIO()
    plain.save(buffer, format=kind, exif=image.getexif())
    return buffer.getvalue()


def _read(path: str | Path, where: str, missing: Reason = Reason.MISSING_IMAGE) -> bytes:
    try:
        return read_bytes(str(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        problem = Problem(missing, f"a file {path}", "none", "put the file there, or leave it out of the list")
        raise ContractError(where, problem) from error
