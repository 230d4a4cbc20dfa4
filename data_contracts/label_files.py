"""Mask files as they are: palette indices, grey values or colours, of whatever depth."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts.errors import ContractError, Problem, Reason
from maskmill.data_contracts.image_files import (
    MAX_PIXELS,
    faults,
    has_deep_colours,
    header_of,
    open_image,
    turn_upright,
)

MOST_VALUE = 2**30  # of a float that stands for an id
ROUNDING = 1e-3  # float masks come out of resamplers as 0.9999999
PLAIN = ("1", "L", "P", "LA", "PA", "F", "RGB", "RGBA")

Uint8Array = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A decoded mask file. `stored` (H, W), uint8 or int32: palette indices or grey values, whole numbers, also where
    a coloured file has equal channels; None for real colours. `colours` are raw channels (H, W, 3 or 4) of a coloured
    file.
    """

    stored: Uint8Array | NDArray[np.int32] | None
    colours: Uint8Array | None
    palette: Uint8Array | None  # (n, 3)
    lossy: str | None  # the format, where it changes values
    mode: str

    @cached_property
    def values(self) -> NDArray[np.int32] | None:
        """`stored`, wide enough to count with."""
        return None if self.stored is None else self.stored.astype(np.int32)


def decode_labels(data: bytes, where: str = "mask", max_pixels: int = MAX_PIXELS, page: int | None = None) -> LabelFile:
    """Decode a mask file as it is, turned upright where it has an EXIF orientation of its own.

    Raises:
        ContractError: undecodable, too large, several pages, fractions, or transparency that varies.
    """
    with faults(data, where, Reason.UNDECODABLE_MASK):
        image, _ = open_image(data, where, max_pixels, Reason.WRONG_MASK_FORMAT, page)
        if has_deep_colours(image, data):
            found, fix = f"colours of 16 bits ({image.mode})", "write one grey channel of 16 bits"
            raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "a mask of one channel", found, fix))
        lossy, mode = _lossy(image, data), image.mode
        palette = image.getpalette("RGB") if mode in ("P", "PA") else None
        plain = image if mode in PLAIN or mode.startswith("I") else image.convert("RGB")
        pixels = turn_upright(np.asarray(plain), header_of(image).orientation)
    palette_rows = None if palette is None else np.asarray(palette, np.uint8).reshape(-1, 3)
    values, colours = _label_values(pixels, mode, where)
    return LabelFile(values, colours, palette_rows, lossy, mode)


def _label_values(
    pixels: NDArray[Any], mode: str, where: str
) -> tuple[Uint8Array | NDArray[np.int32] | None, Uint8Array | None]:
    """Grey values or palette indices of decoded pixels, where they have any, and the colours of coloured ones."""
    if pixels.ndim == 2:
        return _whole(pixels, where), None
    channels = 1 if mode in ("LA", "PA") else 3
    first = pixels[..., 0]
    if not (pixels[..., :channels] == first[..., None]).all():
        return None, pixels
    if pixels.shape[2] > channels and pixels.size and np.ptp(pixels[..., -1]):
        found = f"mode {mode} whose transparency goes from {pixels[..., -1].min()} to {pixels[..., -1].max()}"
        fix = "save one channel of class ids without transparency"
        raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "a mask of one channel", found, fix))
    return np.ascontiguousarray(first), pixels if channels == 3 else None


def _whole(pixels: NDArray[Any], where: str) -> Uint8Array | NDArray[np.int32]:
    """Whole numbers; floats may miss them by a thousandth."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        return pixels.astype(np.int32)
    sane = bool(np.isfinite(pixels).all()) and (not pixels.size or bool(abs(pixels).max() <= MOST_VALUE))
    near = np.rint(pixels) if sane else pixels
    if not sane or (abs(pixels - near) > ROUNDING).any():
        found = f"floats from {pixels.min():g} to {pixels.max():g} that are not whole"
        fix = "store class ids; of probabilities store which one is largest, or where they are over 0.5"
        raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "whole numbers", found, fix))
    return near.astype(np.int32)


def _lossy(image: Image.Image, data: bytes) -> str | None:
    """The format, where its compression changes values."""
    if image.format in ("JPEG", "MPO"):
        return "JPEG"
    if image.format in ("AVIF", "HEIF") or (image.format == "WEBP" and b"VP8L" not in data):
        return str(image.format)
    return "TIFF with JPEG inside" if image.format == "TIFF" and image.info.get("compression") == "jpeg" else None


def decode_mask(data: bytes, where: str = "mask", max_pixels: int = MAX_PIXELS) -> Uint8Array:
    """Decode a label map to uint8 (H, W): palette index or grey value, never a colour.

    Raises:
        ContractError: undecodable, too large, coloured (no single channel), or ids outside 0..255.
    """
    found = decode_labels(data, where, max_pixels)
    if found.stored is None:
        raise ContractError(
            where, coloured(found, "convert colours to class ids, e.g. through ingest's `colours` option")
        )
    values = found.stored
    if values.size and (values.max() > 255 or values.min() < 0):
        expected, there = "ids 0..255", f"ids from {values.min()} to {values.max()}"
        problem = Problem(
            Reason.WRONG_MASK_FORMAT, expected, there, "write class ids of 0..255, or ingest with `remap`"
        )
        raise ContractError(where, problem)
    return values.astype(np.uint8)


def coloured(found: LabelFile, fix: str) -> Problem:
    """The problem of a mask that holds colours where ids are wanted; names the commonest ones."""
    expected = "a single-channel mask of class ids (palette or grey PNG)"
    return Problem(Reason.WRONG_MASK_FORMAT, expected, f"mode {found.mode}", fix)
