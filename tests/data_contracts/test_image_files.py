"""Image files as they come: pages, deep colours, orientations, and what stands where a picture should."""

import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from maskmill.data_contracts import ContractError, Reason, decode_image, decode_mask, encode_mask
from maskmill.data_contracts.image_files import read_header
from maskmill.data_contracts.images import decode_photo
from maskmill.data_contracts.label_files import LabelFile, decode_labels


def save(pixels: NDArray[Any], kind: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(pixels)
    return saved(image if mode is None else image.convert(mode), kind, **options)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def grey(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 5), value, np.uint8))


def fault(data: bytes, decode: Any = decode_image, **options: Any) -> Any:
    with pytest.raises(ContractError) as caught:
        decode(data, **options)
    return caught.value.problem


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a pointer of Git LFS"),
        (b"/annex/objects/MD5E-s1--x.jpg", "a pointer of git-annex"),
        (b".git/annex/objects/x", "a pointer of git-annex"),
        (b"../../.git/annex/objects/x", "a pointer of git-annex"),
        (b"  <!DOCTYPE HTML><p>404", "a web page"),
        (b"<HTML>", "a web page"),
        (b"", "an empty file"),
        (b"abc", "3 bytes: cannot identify image file the file"),
    ],
)
def test_what_stands_in_place_of_a_picture(data: bytes, found: str) -> None:
    assert fault(data).found == found
    assert fault(data, decode_mask).reason is Reason.UNDECODABLE_MASK


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_a_page_is_chosen(kind: str) -> None:
    data = saved(grey(10), kind, save_all=True, append_images=[grey(20), grey(30)])
    for page, value in ((0, 10), (1, 20), (2, 30)):
        photo = decode_photo(data, page=page)
        assert photo.page == page
        assert abs(int(photo.pixels[0, 0, 0]) - value) <= 1
    assert fault(data).found == f"a {kind} of 3 pages (frames)"
    assert "0 to 2" in fault(data).fix
    assert fault(data, decode_photo, page=3).found == f"a {kind} of 3 pages (frames), no page 3"
    alone = decode_photo(saved(grey(7), kind), page=4)  # there is nothing to choose from
    assert (alone.page, int(alone.pixels[0, 0, 0])) == (None, 7)


def tiff(*pages: tuple[int, int]) -> bytes:
    """A TIFF of grey pages (value, subfile type)."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer, new=True) as writer:
        for value, kind in pages:
            grey(value).save(writer, format="TIFF", tiffinfo={254: kind})
            writer.newFrame()
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("pages", "page", "value"),
    [
        ([(10, 1), (20, 0)], None, 20),  # a small copy first
        ([(10, 0), (20, 4), (30, 1)], None, 10),  # a transparency mask and a small copy after it
        ([(10, 1), (20, 2), (30, 2)], 1, 30),  # pages of a document, by their own numbers
        ([(10, 1)], None, 10),  # all that there is
    ],
)
def test_small_copies_and_masks_in_a_tiff_are_no_pages(
    pages: list[tuple[int, int]], page: int | None, value: int
) -> None:
    assert int(decode_photo(tiff(*pages), page=page).pixels[0, 0, 0]) == value


def test_of_a_telephones_double_photo_the_first_is_taken() -> None:
    data = saved(
        Image.new("RGB", (16, 8), (200, 0, 0)), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8))]
    )
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    assert int(decode_image(data)[0, 0, 0]) > 190
    assert decode_labels(data).lossy == "JPEG"


def test_bands_that_make_no_picture_are_counted() -> None:
    entries = [(256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 1, 16), (262, 3, 1, 1), (277, 3, 1, 7)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + struct.pack("<I", 0)
    assert fault(data).found == "a TIFF of 7 bands with 16 bits"
    assert "gdal_translate" in fault(data).fix


@pytest.mark.parametrize("orientation", range(10))
def test_headers_give_the_size_that_people_see(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    header = read_header(save(np.zeros((4, 6), np.uint8), exif=exif))
    assert header.stored == (4, 6)
    assert header.orientation == (orientation if 1 <= orientation <= 8 else 1)
    assert header.turned is (2 <= orientation <= 8)
    assert header.upright == ((6, 4) if 5 <= orientation <= 8 else (4, 6))


def test_a_tiff_is_turned_once() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    data = save(pixels, "TIFF", tiffinfo={274: 6})
    assert decode_image(data)[..., 0].tolist() == np.rot90(pixels, -1).tolist()
    assert decode_photo(data).header.orientation == 1


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bits_of_colour_are_all_looked_at(kind: str) -> None:
    rgb = np.array([[[0, 256, 257], [65535, 32896, 700]]], np.uint16)
    data = cv2.imencode(kind, rgb[..., ::-1])[1].tobytes()
    assert decode_image(data)[0].tolist() == [[0, 0, 1], [255, 128, 2]]
    assert decode_photo(data).tone == (0, 65535)
    assert "colours of 16 bits" in fault(data, decode_mask).found
    dark = cv2.imencode(kind, np.array([[[4095, 2048, 0]]], np.uint16))[1].tobytes()
    assert decode_photo(dark).tone == (0, 4095)


def test_deep_transparency_lies_over_black() -> None:
    bgra = np.array([[[65535, 0, 65535, 65535], [65535, 0, 65535, 32768], [65535, 65535, 65535, 0]]], np.uint16)
    data = cv2.imencode(".png", bgra)[1].tobytes()
    assert decode_image(data)[0].tolist() == [[255, 0, 255], [127, 0, 127], [0, 0, 0]]


def test_photos_with_holes_in_their_numbers_are_named() -> None:
    data = save(np.array([[0.0, np.nan]], np.float32), "TIFF")
    assert fault(data).expected == "finite intensities"
    assert decode_image(save(np.array([[0.0, 0.5, 1.0]], np.float32), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


# masks


def labels(data: bytes) -> LabelFile:
    return decode_labels(data)


def test_a_mask_says_what_it_is_made_of() -> None:
    ids = np.array([[0, 1, 7]], np.uint8)
    found = labels(encode_mask(ids, [0, 0, 0, 9, 8, 7] + [0] * 762))
    assert (found.mode, found.lossy, found.colours) == ("P", None, None)
    assert found.palette is not None
    assert found.palette[1].tolist() == [9, 8, 7]
    assert found.palette.shape[1] == 3
    assert labels(encode_mask(ids)).palette is None
    same = labels(save(ids, mode="RGB"))  # three equal channels: values, and the colours as well
    assert same.values is not None
    assert same.values.tolist() == [[0, 1, 7]]
    assert same.colours is not None
    assert same.colours.shape == (1, 3, 3)
    real = labels(save(np.array([[[1, 1, 2], [3, 3, 3]]], np.uint8)))
    assert real.values is None
    assert real.colours is not None


def test_transparency_that_is_the_same_everywhere_is_left_out() -> None:
    plain = np.array([[[3, 255], [5, 255]]], np.uint8)
    found = labels(save(plain))
    assert (found.mode, found.colours) == ("LA", None)
    assert found.values is not None
    assert found.values.tolist() == [[3, 5]]
    said = fault(save(np.array([[[3, 255], [5, 0]]], np.uint8)), decode_labels)
    assert said.found == "mode LA whose transparency goes from 0 to 255"
    rgba = np.array([[[3, 3, 3, 255], [5, 5, 5, 9]]], np.uint8)
    assert fault(save(rgba), decode_labels).found == "mode RGBA whose transparency goes from 9 to 255"
    assert labels(save(rgba[:, :1])).colours is not None


@pytest.mark.parametrize("value", [1.0009, 0.9991])
def test_floats_may_miss_whole_numbers_by_a_thousandth(value: float) -> None:
    assert decode_mask(save(np.array([[0.0, value, 2.0]], np.float32), "TIFF")).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("value", [1.0015, 0.5, np.nan, np.inf])
def test_other_floats_are_no_ids(value: float) -> None:
    said = fault(save(np.array([[1.0, value]], np.float32), "TIFF"), decode_mask)
    assert said.expected == "whole numbers"


@pytest.mark.parametrize(
    ("kind", "options", "lossy"),
    [
        ("JPEG", {}, "JPEG"),
        ("WEBP", {"lossless": False}, "WEBP"),
        ("WEBP", {"lossless": True}, None),
        ("TIFF", {"compression": "jpeg"}, "TIFF with JPEG inside"),
        ("TIFF", {"compression": "tiff_lzw"}, None),
        ("PNG", {}, None),
    ],
)
def test_formats_that_change_values_are_told(kind: str, options: dict[str, Any], lossy: str | None) -> None:
    assert labels(saved(Image.new("RGB", (16, 16), (3, 3, 3)), kind, **options)).lossy == lossy


@pytest.mark.parametrize("value", [-1, 256])
def test_ids_fit_a_byte(value: int) -> None:
    said = fault(save(np.array([[0, value]], np.int32), "TIFF"), decode_mask)
    assert said.found == f"ids from {min(0, value)} to {max(0, value)}"
    assert decode_mask(save(np.array([[0, 255]], np.int32), "TIFF")).tolist() == [[0, 255]]
