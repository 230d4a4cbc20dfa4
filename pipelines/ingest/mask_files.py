"""Masks as files: images, or arrays of numpy, which become PNG on the way in."""

import io
from typing import Any

import numpy as np
from PIL import Image

from maskmill.data_contracts import ContractError, Problem, Reason
from maskmill.data_contracts.image_files import IMAGE_SUFFIXES
from maskmill.pipelines.ingest.files import Root

MASK_SUFFIXES = IMAGE_SUFFIXES | {".npy"}


def read_mask(root: Root, path: str, max_pixels: int) -> bytes:
    """A mask file of the root, as the bytes of an image.

    Raises:
        ContractError: no such file, or an array that is no label map.
    """
    data = root.read(path, Reason.MISSING_MASK)
    return array_to_png(data, path, max_pixels) if path.lower().endswith(".npy") else data


def array_to_png(data: bytes, where: str, max_pixels: int) -> bytes:
    """An .npy file of whole numbers 0..65535, (H, W) but for axes of length 1, as grey PNG of 8 or 16 bits. Objects in
    the file (pickles) are never loaded.
    """
    shape, kind = _header(data, where)
    sides = tuple(n for n in shape if n != 1) if len(shape) > 2 else shape
    if len(sides) != 2 or 0 in sides or kind not in "buif":
        words = f"shape {shape}" if kind in "buif" else f"values of kind {kind!r}"
        fix = "save one whole number a pixel, e.g. np.save(path, mask.astype('uint8')) with mask of (height, width)"
        raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "an array (height, width)", words, fix))
    if sides[0] * sides[1] > max_pixels:
        fix = "shrink it, or raise max_pixels in the ingest config"
        expected = f"at most {max_pixels} pixels"
        raise ContractError(where, Problem(Reason.IMAGE_TOO_LARGE, expected, f"{sides[1]}x{sides[0]}", fix))
    values = _load(data, where).reshape(sides)
    wide = _whole(values, where)
    buffer = io.BytesIO()
    Image.fromarray(wide.astype(np.uint8 if wide.max() <= 255 else np.uint16)).save(buffer, format="PNG")
    return buffer.getvalue()


def _header(data: bytes, where: str) -> tuple[tuple[int, ...], str]:
    layout: Any = np.lib.format
    try:
        file = io.BytesIO(data)
        version = layout.read_magic(file)
        read = layout.read_array_header_1_0 if version == (1, 0) else layout.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:
        raise _broken(where, error) from error
    return tuple(int(n) for n in shape), dtype.kind


def _load(data: bytes, where: str) -> "np.ndarray[Any, Any]":
    try:
        values: np.ndarray[Any, Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise _broken(where, error) from error
    return values


def _broken(where: str, error: Exception) -> ContractError:
    found = f"{type(error).__name__}: {error}"[:200]
    return ContractError(where, Problem(Reason.UNDECODABLE_MASK, "a whole .npy file", found, "write the file again"))


def _whole(values: "np.ndarray[Any, Any]", where: str) -> "np.ndarray[Any, Any]":
    finite = bool(np.isfinite(values).all())
    if finite and bool((values == np.floor(values)).all()) and values.min() >= 0 and values.max() <= 65535:
        return values
    found = f"values from {values.min()} to {values.max()}" if finite else "NaN or infinity"
    fix = "save class ids, and no probabilities: np.save(path, mask.astype('uint8'))"
    raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "whole numbers 0..65535", found, fix))
