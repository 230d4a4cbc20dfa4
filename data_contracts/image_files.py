"""Image files opened with limits, one page of them, and what their headers say: the only place that opens one."""

import importlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from maskmill.data_contracts.errors import ContractError, Problem, Reason, raise_transient

MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112  # EXIF tag

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
def faults(data: bytes, where: str, reason: Reason) -> Iterator[None]:
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
        raise_transient(error)
        found, fix = _instead(data) or (f"{len(data)} bytes: {_no_address(str(error))}", "replace or remove the file")
        problem = Problem(reason, "a complete image file", found, fix)
        raise ContractError(where, problem) from error


def _instead(data: bytes) -> tuple[str, str] | None:
    """What stands in place of an image, and what to do; None for bytes that are none of what people often have."""
    start = data[:512].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS", "fetch the files first: `git lfs pull`"
    if start.startswith((b"/annex/objects/", b".git/annex/")) or b".git/annex/objects/" in start:
        return "a pointer of git-annex", "fetch the files first: `git annex get .` or `datalad get .`"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page", "download the file again: the address gave a page"
    return None if data else ("an empty file", "copy or download the file again")


def _no_address(message: str) -> str:
    """Pillow names the buffer it could not read by its address, which differs from run to run."""
    return re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", "the file", message)


@dataclass(frozen=True)
class Header:
    """Size of an image file as its pixels are stored, and how EXIF turns them (1 = not at all)."""

    stored: tuple[int, int]  # height, width
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height, width as people see the photo."""
        return (self.stored[1], self.stored[0]) if self.orientation >= 5 else self.stored

    @property
    def turned(self) -> bool:
        return self.orientation != 1


def open_image(
    data: bytes, where: str, max_pixels: int, reason: Reason, page: int | None = None
) -> tuple[Image.Image, int | None]:
    """The image, loaded; of a file with several pages that which is wanted, and its number.

    Raises:
        ContractError: too large, several pages and no word which, or bands that make no picture.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if (bands := tiff_bands(data)) is None:
            raise
        fix = "write the three bands to look at as 8-bit RGB, e.g. gdal_translate -b 1 -b 2 -b 3 -scale -ot Byte"
        raise ContractError(where, Problem(reason, "a grey, RGB or palette image", bands, fix)) from error
    taken = _seek(image, page, where, reason)
    if image.width * image.height > max_pixels:
        found = f"{image.width}x{image.height}"
        fix = "shrink it, or raise max_pixels in the ingest config"
        raise ContractError(where, Problem(Reason.IMAGE_TOO_LARGE, f"at most {max_pixels} pixels", found, fix))
    image.load()
    return image, taken


def tiff_bands(data: bytes) -> str | None:
    """What a TIFF that Pillow does not know holds, in words; None for other files."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    stream = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
    stream.seek(tags.next)
    tags.load(stream)
    bits = tags.get(258, (1,))
    return f"a TIFF of {tags.get(277, 1)} bands with {bits[0] if isinstance(bits, tuple) else bits} bits"


def _seek(image: Image.Image, page: int | None, where: str, reason: Reason) -> int | None:
    """Go to the wanted page of a file that has several; its number."""
    if image.format == "MPO" or getattr(image, "n_frames", 1) == 1:  # of a phone's MPO the first is the photo
        return None
    pages = _pages(image)
    if len(pages) > 1 and (page is None or page >= len(pages)):
        found = f"a {image.format} of {len(pages)} pages (frames)" + ("" if page is None else f", no page {page}")
        fix = f"choose one with source.page (0 to {len(pages) - 1}), or write each as a file (objects as one mask)"
        raise ContractError(where, Problem(reason, "one page", found, fix))
    image.seek(pages[page or 0] if len(pages) > 1 else pages[0])
    return page if len(pages) > 1 else None


def _pages(image: Image.Image) -> list[int]:
    """Frames that are pictures of their own; TIFF files hold smaller copies and transparency masks as well."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return list(range(int(getattr(image, "n_frames", 1))))
    found = []
    for number in range(image.n_frames):
        image.seek(number)
        if not int(image.tag_v2.get(254, 0)) & 5:
            found.append(number)
    return found or [0]


def header_of(image: Image.Image) -> Header:
    """Size and orientation of an opened image."""
    # Pillow turns a TIFF by itself.
    orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
    return Header((image.height, image.width), orientation if orientation in range(1, 9) else 1)


def read_header(data: bytes, where: str = "image") -> Header:
    """Size and orientation of an image file, its pixels unread.

    Raises:
        ContractError: no image file.
    """
    return header_of(peek(data, where))


def peek(data: bytes, where: str = "image") -> Image.Image:
    """An image file opened, its pixels unread: for its format and mode.

    Raises:
        ContractError: no image file.
    """
    with faults(data, where, Reason.UNDECODABLE_IMAGE):
        return Image.open(io.BytesIO(data), formats=FORMATS)


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An array (H, W, ...) of stored pixels, turned as EXIF's orientation says."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def has_deep_colours(image: Image.Image, data: bytes) -> bool:
    """Whether an image has colours of more than 8 bits, of which Pillow gives the upper eight."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)  # bit depth and colour type of its first chunk
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(258, (1,))) > 8 and image.mode in ("RGB", "RGBA", "LA")
    return False
