"""Bytes of sound and of malformed image files."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

CODECS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp": "BMP",
    "tif": "TIFF",
    "gif": "GIF",
    "ppm": "PPM",
    "jp2": "JPEG2000",
    "avif": "AVIF",
}


def picture(kind: str = "PNG", height: int = 24, width: int = 32, mode: str = "RGB", **more: Any) -> bytes:
    """A sound photo of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **more)
    return buffer.getvalue()


def saved(values: "np.ndarray[Any, Any]", kind: str = "PNG", **more: Any) -> bytes:
    """An array as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **more)
    return buffer.getvalue()


def frames(kind: str, count: int = 2) -> bytes:
    """Several pictures in one file."""
    pictures = [Image.new("RGB", (8, 8), (50 * n, 0, 0)) for n in range(count)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def mask(value: int = 12, height: int = 24, width: int = 32) -> bytes:
    """A label map with a rectangle of one class."""
    values = np.zeros((height, width), np.uint8)
    values[4:16, 4:16] = value
    return saved(values)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: int = 0, extra: bytes = b"") -> bytes:
    """A PNG that declares a size and holds `rows` black rows of it (few bytes, however many)."""
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 3) * depth
    packer = zlib.compressobj(1)
    row = bytes(1 + (width * bits + 7) // 8) if rows else b""
    body = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp(width: int, height: int) -> bytes:
    """A BMP that declares a size and holds nothing of it."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def tiff(tags: list[tuple[int, int, int, int]], after: int = 0, body: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; `after` is where it says that the next one lies."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", after) + body


def huge_tiff(width: int, height: int) -> bytes:
    """A TIFF that declares a size."""
    return tiff(
        [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    )


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header lies about its size."""
    data = bytearray(picture("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def exif(orientation: int) -> bytes:
    """EXIF that names an orientation."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def npy(values: "np.ndarray[Any, Any]", allow_pickle: bool = False) -> bytes:
    """An array as numpy saves it."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=allow_pickle)
    return buffer.getvalue()


def npy_header(header: str, body: bytes = b"") -> bytes:
    """An .npy file with a header of one's own."""
    padded = header.encode() + b" " * 16 + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + body
