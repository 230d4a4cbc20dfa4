"""Photos and masks in and out of bytes."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts.blocks import blocks
from maskmill.data_contracts.errors import ContractError, Problem, Reason
from maskmill.data_contracts.image_files import (
    MAX_PIXELS,
    Header,
    faults,
    has_deep_colours,
    header_of,
    open_image,
    turn_upright,
)
from maskmill.data_contracts.tone import Range, to_eight_bits, tone_range

IGNORE = 255

Uint8Array = NDArray[np.uint8]
DEEP = (1 << 16) - 1  # white in 16 bits


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo: uint8 (H, W, 3), upright; `tone` is the range that became 0..255 where the file is deeper,
    `page` the number of its page where the file has several.
    """

    pixels: Uint8Array
    header: Header
    tone: Range | None = None
    page: int | None = None


def decode_image(data: bytes, where: str = "image", max_pixels: int = MAX_PIXELS) -> Uint8Array:
    """Decode to uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    More than 8 bits are scaled to 8 by `tone: auto`; palettes, grey and CMYK become RGB; transparency is laid over
    black.

    Raises:
        ContractError: undecodable, truncated, several pages, or more than `max_pixels` pixels.
    """
    return decode_photo(data, where, max_pixels).pixels


def decode_photo(
    data: bytes,
    where: str = "image",
    max_pixels: int = MAX_PIXELS,
    tone: "str | Range" = "auto",
    page: int | None = None,
) -> Photo:
    """Decode as `decode_image` does, with the tone and the page that the config wants.

    Raises:
        ContractError: see there; also a page that the file does not have.
    """
    with faults(data, where, Reason.UNDECODABLE_IMAGE):
        image, taken = open_image(data, where, max_pixels, Reason.UNDECODABLE_IMAGE, page)
        header = header_of(image)
        values = _deep_values(image, data)
        if values is None:
            return Photo(turn_upright(_to_rgb(image), header.orientation), header, page=taken)
        del image  # its eight bits are no longer wanted
        try:
            between = tone_range(values, tone)
        except ValueError as error:
            fix = "write the photo without NaN and infinity"
            raise ContractError(
                where, Problem(Reason.UNDECODABLE_IMAGE, "finite intensities", str(error), fix)
            ) from error
        pixels = to_eight_bits(values, between)
        pixels = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        return Photo(turn_upright(pixels, header.orientation), header, between, taken)


def _deep_values(image: Image.Image, data: bytes) -> NDArray[Any] | None:
    """Values of an image with more than 8 bits, (H, W) or (H, W, 3); None for others."""
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if not has_deep_colours(image, data):
        return None
    import cv2  # Pillow drops the lower eight bits of colours

    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16 or raw.shape[:2] != (image.height, image.width) or raw.ndim != 3:
        return None
    values = raw[..., 2::-1]
    if raw.shape[2] == 4:
        for rows in blocks(raw):
            values[rows] = values[rows].astype(np.uint32) * raw[rows][..., 3:] // 65535
    return values


def _to_rgb(image: Image.Image) -> Uint8Array:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def encode_mask(mask: Uint8Array, palette: list[int] | None = None) -> bytes:
    """Encode uint8 (H, W) as a palette PNG (`palette` = 768 numbers), or as grey PNG without one. Same input, same
    bytes.
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"mask: expected uint8 (H, W), found {mask.dtype} {mask.shape}")
    image = Image.fromarray(mask)
    if palette is not None:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_floats(data: bytes, where: str = "image", max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Decode to float32 (H, W, 3) of 0..255, turned upright: floats of 0..1 (`encode_floats`) keep all that they are,
    those of 16 bits as well (65535 is white, with no tone), and one of 8 bits gives whole numbers.

    Raises:
        ContractError: as `decode_image`; other numbers than these.
    """
    with faults(data, where, Reason.UNDECODABLE_IMAGE):
        image, _ = open_image(data, where, max_pixels, Reason.UNDECODABLE_IMAGE, None)
        header = header_of(image)
        values = _deep_values(image, data)
        if values is None:
            return turn_upright(_to_rgb(image), header.orientation).astype(np.float32)
        white = 1 if values.dtype.kind == "f" else DEEP
        if not (values.min() >= 0 and values.max() <= white):
            fix = f"store floats of 0..1, or whole numbers of 0..{DEEP}"
            found = f"{values.dtype} of {values.min()} to {values.max()}"
            raise ContractError(where, Problem(Reason.UNDECODABLE_IMAGE, "8 or 16 bits, or shares", found, fix))
        grey = values.astype(np.float32) * np.float32(255 / white)
        rgb = np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey
        return turn_upright(rgb, header.orientation)


def encode_floats(image: NDArray[np.float32]) -> bytes:
    """Encode grey values float32 (H, W) of 0..1 as TIFF, without loss. Same input, same bytes. Readers of 8 bits see
    1 as white, whatever the brightest pixel is.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


def encode_image(image: Uint8Array) -> bytes:
    """Encode uint8 (H, W, 3) as PNG, without loss. Same input, same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
