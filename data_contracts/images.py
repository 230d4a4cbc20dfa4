"""Pixels in and out of bytes, with limits: the only place that opens an image file."""

import importlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from maskmill.data_contracts.errors import ContractError, Problem, Reason

MAX_PIXELS = 64_000_000
IGNORE = 255

Uint8Array = NDArray[np.uint8]


# The formats that data sets come in. Others that Pillow knows start programs (EPS) or are containers with odd decoders.
Image.init()
with suppress(ImportError):  # photos of telephones: `pip install pillow-heif` is all it takes
    importlib.import_module("pillow_heif").register_heif_opener()
KNOWN = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
FORMATS = tuple(f for f in KNOWN if f in Image.OPEN)
IMAGE_SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)
# The limit below is ours and stricter; it is reported per sample, so Pillow's warning on stderr has nothing to add.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def _faults(data: bytes, where: str, reason: Reason) -> Iterator[None]:
    """Whatever a decoder makes of broken bytes becomes one ContractError."""
    try:
        yield
    except ContractError:
        raise
    except Image.DecompressionBombError as error:
        fix = "shrink it: no setting lets an image of this size pass"
        raise ContractError(
            where, Problem(Reason.IMAGE_TOO_LARGE, "an image that Pillow opens", str(error), fix)
        ) from error
    except Exception as error:  # on corrupt data decoders raise anything: OSError, struct.error, IndexError, ...
        found = f"{len(data)} bytes: {_no_address(str(error))}"
        problem = Problem(reason, "a complete image file", found, "replace or remove the file")
        raise ContractError(where, problem) from error


def _no_address(message: str) -> str:
    """Pillow names the buffer it could not read by its address, which differs from run to run."""
    return re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "the file", message)


def _open(data: bytes, where: str, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_pixels:
        found = f"{image.width}x{image.height}"
        fix = "shrink it, or raise max_pixels in the ingest config"
        raise ContractError(where, Problem(Reason.IMAGE_TOO_LARGE, f"at most {max_pixels} pixels", found, fix))
    image.load()
    return image


def decode_image(data: bytes, where: str = "image", max_pixels: int = MAX_PIXELS) -> Uint8Array:
    """Decode to uint8 (H, W, 3) RGB, turned upright by its EXIF orientation.

    16-bit grey is scaled to 8 bits; palettes, grey and CMYK become RGB; transparency is laid over black.

    Raises:
        ContractError: undecodable, truncated, or more than `max_pixels` pixels.
    """
    with _faults(data, where, Reason.UNDECODABLE_IMAGE):
        return image_pixels(_open(data, where, max_pixels))


def image_pixels(image: Image.Image) -> Uint8Array:
    """uint8 (H, W, 3) RGB of an open Pillow image, by the rules of `decode_image`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64) // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def decode_mask(data: bytes, where: str = "mask", max_pixels: int = MAX_PIXELS) -> Uint8Array:
    """Decode a label map to uint8 (H, W): palette index or grey value, never a colour.

    Raises:
        ContractError: undecodable, too large, coloured (no single channel), or ids above 255.
    """
    with _faults(data, where, Reason.UNDECODABLE_MASK):
        image = _open(data, where, max_pixels)
    return mask_pixels(image, where)


def mask_pixels(image: Image.Image, where: str = "mask") -> Uint8Array:
    """uint8 (H, W) of an open Pillow image: palette index or grey value, never a colour.

    Raises:
        ContractError: coloured (no single channel), or ids above 255.
    """
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        problem = Problem(
            Reason.WRONG_MASK_FORMAT,
            "a single-channel mask of class ids (palette or grey PNG)",
            f"mode {image.mode}",
            "convert colours to class ids, e.g. through ingest's `colours` option",
        )
        raise ContractError(where, problem)
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.max() > 255 or values.min() < 0):
        problem = Problem(
            Reason.WRONG_MASK_FORMAT, "ids 0..255", f"ids up to {values.max()}", "remap the ids with ingest's `remap`"
        )
        raise ContractError(where, problem)
    return values.astype(np.uint8)


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


def encode_image(image: Uint8Array) -> bytes:
    """Encode uint8 (H, W, 3) as PNG, without loss. Same input, same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
