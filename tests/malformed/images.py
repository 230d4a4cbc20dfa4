"""Photos and masks that are no photos and no masks."""

from dataclasses import replace

import numpy as np

from tests.malformed.cases import Case, Files, of_source
from tests.malformed.files import (
    CODECS,
    bmp,
    chunk,
    exif,
    frames,
    huge_tiff,
    jpeg_of_size,
    mask,
    npy,
    npy_header,
    picture,
    png,
    saved,
    tiff,
)

UNDECODABLE, TOO_LARGE = "undecodable_image: expected", "image_too_large"
GREY = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]  # a TIFF of 4 x 4 plain pixels


def photo(name: str, suffix: str, data: "object", expected: str) -> Case:
    """A photo without a mask."""
    make = data if callable(data) else lambda: data
    return of_source(name, "folder", lambda: {f"images/a.{suffix}": make()}, expected, masks=None)


def pair(name: str, suffix: str, data: "object", expected: str, image: bytes | None = None) -> Case:
    """A sound photo with a mask."""
    make = data if callable(data) else lambda: data

    def files() -> Files:
        return {"images/a.png": image or picture(), f"masks/a.{suffix}": make()}

    return of_source(f"mask, {name}", "folder", files, expected)


def eighth(case: Case) -> Case:
    """A case with an eighth of the pixels that are allowed."""
    return replace(case, share=1 / 8)


def deep(case: Case) -> Case:
    """A case with an eighth of the pixels that are allowed, in colours of 16 bits: 18 bytes of memory each."""
    return replace(case, share=18 * 8_000_000 / (1 << 30))


def _codecs() -> list[Case]:
    cases = []
    for suffix, kind in CODECS.items():
        found = {
            "half of it": lambda k=kind: picture(k)[: len(picture(k)) // 2],
            "ten bytes": lambda k=kind: picture(k)[:10],
            "another magic": lambda k=kind: b"\0\0\0\0" + picture(k)[4:],
        }
        cases += [photo(f"{kind}, {name}", suffix, make, UNDECODABLE) for name, make in found.items()]
        cases.append(photo(f"{kind}, bytes behind the end", suffix, lambda k=kind: picture(k) + b"\0" * 999, "kept"))
    return cases


def _twin_chunk(kind: bytes, body: bytes) -> bytes:
    import zlib

    return chunk(kind, b"k\0\0" + zlib.compress(body))


PHOTOS = [
    *_codecs(),
    photo("empty", "png", b"", "an empty file"),
    photo("zeros", "png", bytes(4096), UNDECODABLE),
    photo("text", "png", b"not a picture", UNDECODABLE),
    photo("web page", "jpg", b"<!DOCTYPE html><html>404</html>", "found a web page"),
    photo("pointer of LFS", "jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    photo("pointer of annex", "jpg", b"/annex/objects/MD5E-s1--0.jpg", "git annex get"),
    photo("EPS", "png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n", UNDECODABLE),
    photo("PDF", "png", b"%PDF-1.4\n%%EOF", UNDECODABLE),
    photo(
        "SVG", "png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", UNDECODABLE
    ),
    photo("XBM with code", "png", b"#define a_width 8\n#define a_height 8\nstatic char a[] = {0};", UNDECODABLE),
    photo("FLI", "png", bytes(4) + b"\x11\xaf" + bytes(200), UNDECODABLE),
    photo("PSD", "png", b"8BPS\0\1" + bytes(60), UNDECODABLE),
    photo("ICO", "png", b"\0\0\1\0\1\0" + bytes(60), UNDECODABLE),
    photo("zip", "png", b"PK\3\4" + bytes(60), UNDECODABLE),
    photo("PNG bomb", "png", lambda: png(20000, 9000), TOO_LARGE),
    photo("PNG, 60,000 by 60,000", "png", lambda: png(60000, 60000), TOO_LARGE),
    photo("PNG, no columns", "png", lambda: png(0, 9), UNDECODABLE),
    photo("PNG, no rows", "png", lambda: png(9, 0), UNDECODABLE),
    photo("PNG, 65,535 by 1, no pixels", "png", lambda: png(65535, 1), UNDECODABLE),
    photo("PNG, 1 by 65,535, no pixels", "png", lambda: png(1, 65535), UNDECODABLE),
    photo("PNG, 2 billion columns", "png", lambda: png(2**31 - 1, 1), TOO_LARGE),
    eighth(photo("PNG of 8 million grey pixels", "png", lambda: png(4000, 2000, 8, 0, 2000), "kept")),
    deep(photo("PNG of 8 million deep colours", "png", lambda: png(4000, 2000, 16, 2, 2000), "kept")),
    photo("PNG of 70 million pixels", "png", lambda: png(10000, 7000, 1, 0), TOO_LARGE),
    photo("PNG, wrong checksum", "png", lambda: picture().replace(b"IDAT", b"IDAU", 1), UNDECODABLE),
    photo("PNG, a bit depth of 3", "png", lambda: png(9, 9, 3, 0), UNDECODABLE),
    photo(
        "PNG, text that unpacks to 128 MB",
        "png",
        lambda: png(9, 9, rows=9, extra=_twin_chunk(b"zTXt", bytes(1 << 27))),
        UNDECODABLE,
    ),
    photo(
        "PNG, a profile that unpacks to 128 MB",
        "png",
        lambda: png(9, 9, rows=9, extra=_twin_chunk(b"iCCP", bytes(1 << 27))),
        UNDECODABLE,
    ),
    photo("BMP, 65,000 by 65,000", "bmp", lambda: bmp(65000, 65000), TOO_LARGE),
    photo("BMP, negative columns", "bmp", lambda: bmp(-9, 9), TOO_LARGE),
    photo("BMP, no pixels", "bmp", lambda: bmp(30, 30), UNDECODABLE),
    photo("TIFF, 65,000 by 65,000", "tif", lambda: huge_tiff(65000, 65000), TOO_LARGE),
    photo("TIFF, no size", "tif", lambda: tiff([(258, 3, 1, 8)]), UNDECODABLE),
    photo(
        "TIFF, a directory that follows itself",
        "tif",
        lambda: tiff(
            [
                *GREY,
                (273, 4, 1, 8),
                (279, 4, 1, 16),
            ],
            after=8,
            body=bytes(32),
        ),
        "kept|undecodable_image",
    ),
    photo(
        "TIFF, five bands",
        "tif",
        lambda: tiff(
            [
                *GREY,
                (277, 3, 1, 5),
                (273, 4, 1, 8),
            ]
        ),
        "5 bands",
    ),
    photo(
        "TIFF, tags of 4 GB", "tif", lambda: tiff([(256, 4, 1, 4), (257, 4, 1, 4), (270, 2, 2**32 - 1, 8)]), UNDECODABLE
    ),
    photo("TIFF of NaN", "tif", lambda: saved(np.full((4, 4), np.nan, np.float32), "TIFF"), "finite intensities"),
    photo("TIFF of infinity", "tif", lambda: saved(np.full((4, 4), np.inf, np.float32), "TIFF"), "finite intensities"),
    photo("JPEG, 65,500 by 65,500", "jpg", lambda: jpeg_of_size(65500, 65500), TOO_LARGE),
    photo("JPEG, more rows than there are", "jpg", lambda: jpeg_of_size(32, 4000), "kept|undecodable_image"),
    photo("PPM, 65,535 by 65,535", "ppm", b"P6 65535 65535 255\n", TOO_LARGE),
    photo("PPM, size in words", "ppm", b"P6 ten ten 255\n" + bytes(300), UNDECODABLE),
    photo("PPM, a number of 5,000 digits", "ppm", b"P6 " + b"9" * 5000 + b" 1 255\n", UNDECODABLE),
    photo(
        "GIF, 65,535 by 65,535", "gif", b"GIF89a" + b"\xff\xff\xff\xff" + bytes(40), "undecodable_image|image_too_large"
    ),
    photo(
        "WEBP of 268 million pixels",
        "webp",
        lambda: saved(np.zeros((16383, 1), np.uint8), "WEBP")[:20] + b"\x2f\xff\xff\xff\x0f" + bytes(20),
        "undecodable_image|image_too_large",
    ),
    photo("JPEG 2000, header alone", "jp2", lambda: picture("JPEG2000")[:120], UNDECODABLE),
    photo("animated GIF", "gif", lambda: frames("GIF"), "a GIF of 2 pages"),
    photo("animated WEBP", "webp", lambda: frames("WEBP"), "a WEBP of 2 pages"),
    photo("animated PNG", "png", lambda: frames("PNG"), "a PNG of 2 pages"),
    photo("TIFF of two pages", "tif", lambda: frames("TIFF"), "a TIFF of 2 pages"),
    photo("EXIF orientation 99", "jpg", lambda: picture("JPEG", exif=exif(99)), "kept"),
    photo("EXIF cut off", "jpg", lambda: picture("JPEG", exif=exif(6)[:20]), "kept"),
    photo("EXIF of noise", "jpg", lambda: picture("JPEG", exif=b"Exif\0\0" + bytes(range(256))), "kept"),
    photo("CMYK", "jpg", lambda: picture("JPEG", mode="CMYK"), "kept"),
    photo("palette", "png", lambda: picture(mode="P"), "kept"),
    photo("one bit", "png", lambda: picture(mode="1"), "kept"),
    photo("16 bits", "png", lambda: saved(np.arange(768, dtype=np.uint16).reshape(24, 32)), "kept"),
]

WRONG, UNKNOWN = "wrong_mask_format", "unknown_mask_id"
MASKS = [
    pair("a photo", "png", picture, f"{WRONG}.*check that this is a mask"),
    pair("JPEG", "jpg", lambda: saved(np.zeros((24, 32), np.uint8), "JPEG"), "without loss"),
    pair("WEBP with loss", "webp", lambda: picture("WEBP", quality=50), "without loss"),
    pair("truncated", "png", lambda: mask()[:60], "undecodable_mask"),
    pair("text", "png", b"mask", "undecodable_mask"),
    pair("empty file", "png", b"", "undecodable_mask.*an empty file"),
    pair("bomb", "png", lambda: png(60000, 60000, 8, 0), TOO_LARGE),
    eighth(pair("8 million pixels", "png", lambda: png(4000, 2000, 8, 0, 2000), "size_mismatch")),
    eighth(pair("8 million pixels of 16 bits", "png", lambda: png(4000, 2000, 16, 0, 2000), "size_mismatch")),
    eighth(pair("8 million coloured pixels", "png", lambda: png(4000, 2000, 8, 2, 2000), "size_mismatch|wrong_mask")),
    pair("another size", "png", lambda: mask(height=9, width=9), "size_mismatch"),
    pair("transposed", "png", lambda: mask(height=32, width=24), "size_mismatch"),
    pair("an id of no class", "png", lambda: mask(77), f"{UNKNOWN}.*id 77"),
    pair("nothing in it", "png", lambda: saved(np.zeros((24, 32), np.uint8)), "empty_foreground"),
    pair("ignore alone", "png", lambda: saved(np.full((24, 32), 255, np.uint8)), "empty_foreground"),
    pair("0 and 255", "png", lambda: mask(255), "empty_foreground.*remap"),
    pair("16 bits", "png", lambda: saved(np.full((24, 32), 4000, np.uint16)), WRONG),
    pair("colours of 16 bits", "png", lambda: png(32, 24, 16, 2, 24), f"{WRONG}.*16 bits"),
    pair(
        "floats that are no ids",
        "tif",
        lambda: saved(np.full((24, 32), 0.5, np.float32), "TIFF"),
        f"{WRONG}.*not whole",
    ),
    pair("NaN", "tif", lambda: saved(np.full((24, 32), np.nan, np.float32), "TIFF"), WRONG),
    pair("huge floats", "tif", lambda: saved(np.full((24, 32), 1e30, np.float32), "TIFF"), WRONG),
    pair("negative ids", "tif", lambda: saved(np.full((24, 32), -3, np.int32), "TIFF"), WRONG),
    pair(
        "transparency that varies",
        "png",
        lambda: saved(np.random.default_rng(0).integers(0, 2, (24, 32, 4), dtype=np.uint8)),
        WRONG,
    ),
    pair("two pages", "tif", lambda: frames("TIFF"), f"{WRONG}.*2 pages"),
    pair("animated", "gif", lambda: frames("GIF"), WRONG),
    pair("a palette in another order", "png", lambda: _palette(), WRONG),
    pair("npy, truncated", "npy", lambda: npy(np.zeros((24, 32), np.uint8))[:-9], "undecodable_mask.*npy"),
    pair(
        "npy, pickled", "npy", lambda: npy(np.array([[object]], object), allow_pickle=True), f"{WRONG}|undecodable_mask"
    ),
    pair("npy, a header that is code", "npy", lambda: npy_header("__import__('os').system('id')"), "undecodable_mask"),
    pair(
        "npy, a shape of 2^40",
        "npy",
        lambda: npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 1048576)}"),
        TOO_LARGE,
    ),
    pair(
        "npy, a negative shape",
        "npy",
        lambda: npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-24, 32)}", bytes(768)),
        "undecodable_mask|wrong_mask",
    ),
    pair("npy, three axes", "npy", lambda: npy(np.zeros((24, 32, 3), np.uint8)), f"{WRONG}.*shape"),
    pair("npy, no axis", "npy", lambda: npy(np.array(3)), WRONG),
    pair("npy, fractions", "npy", lambda: npy(np.full((24, 32), 0.5)), f"{WRONG}.*whole"),
    pair("npy, complex", "npy", lambda: npy(np.zeros((24, 32), complex)), WRONG),
    pair("npy, text", "npy", lambda: npy(np.full((24, 32), "a")), WRONG),
    pair("npy, records", "npy", lambda: npy(np.zeros((24, 32), [("a", "u1")])), WRONG),
    of_source(
        "mask of the stored pixels",
        "folder",
        lambda: {"images/a.jpg": picture("JPEG", exif=exif(6)), "masks/a.png": mask()},
        "masks_drawn_on",
    ),
    of_source(
        "photo without a mask", "folder", lambda: {"images/a.png": picture(), "masks/b.png": mask()}, "missing_mask"
    ),
    of_source("nothing there", "folder", lambda: {"images/x.txt": "", "masks/x.txt": ""}, "nothing to ingest"),
    of_source("no such folder", "folder", lambda: {"photos/a.png": picture()}, "no folder 'images'.*photos"),
]


def _palette() -> bytes:
    from PIL import Image

    image = Image.new("P", (32, 24), 1)
    image.putpalette([128, 0, 0, 0, 0, 0, 0, 128, 0])
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


CASES = [*PHOTOS, *MASKS]
