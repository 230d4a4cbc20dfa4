"""Pixels in and out: limits, orientations, odd modes, and bytes that are no picture."""

import gc
import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, features

from maskmill.data_contracts import (
    ContractError,
    Reason,
    decode_image,
    decode_mask,
    encode_image,
    encode_mask,
    load_label_space,
)
from maskmill.data_contracts.image_files import FORMATS

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
VOC = load_label_space("voc")


def save(image: Image.Image | NDArray[np.generic], kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def reason_of(data: bytes, decode: object = decode_image, **options: object) -> Reason:
    with pytest.raises(ContractError) as caught:
        decode(data, **options)  # type: ignore[operator]
    return caught.value.problem.reason


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_masks_come_back(mask: NDArray[np.uint8]) -> None:
    for palette in (None, VOC.palette):
        data = encode_mask(mask, palette)
        assert np.array_equal(decode_mask(data), mask)
        assert data == encode_mask(mask.copy(), palette)


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_images_come_back(image: NDArray[np.uint8]) -> None:
    assert np.array_equal(decode_image(encode_image(image)), image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_photos_are_turned_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8], upright[:8, 24:] = 255, (255, 0, 0)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    stored = np.ascontiguousarray(turn(upright))
    found = decode_image(
        save(stored, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    )
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 3


def test_16_bit_grey_is_scaled() -> None:
    values = np.array([[0, 257, 65535, 32896]], np.uint16)
    found = decode_image(save(values))
    assert found[0, :, 0].tolist() == [0, 1, 255, 128]
    assert (found == found[..., :1]).all()


def test_palettes_and_grey_become_rgb() -> None:
    image = Image.fromarray(np.array([[1, 15]], np.uint8))
    image.putpalette(VOC.palette)
    assert decode_image(save(image))[0].tolist() == [[128, 0, 0], [192, 128, 128]]
    assert decode_image(save(np.array([[7]], np.uint8)))[0, 0].tolist() == [7, 7, 7]
    assert decode_image(save(np.array([[True, False]])))[0].tolist() == [[255] * 3, [0] * 3]


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = decode_image(save(image, "JPEG", quality=100))
    assert np.abs(found.astype(int) - (255, 0, 0)).max() <= 6


def test_transparency_lies_over_black() -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], np.uint8)
    found = decode_image(save(rgba))[0]
    assert found[0].tolist() == [200, 100, 50]
    assert found[1].tolist() == [0, 0, 0]
    assert np.abs(found[2].astype(int) - (100, 50, 25)).max() <= 1
    image = Image.fromarray(np.array([[1, 2]], np.uint8))
    image.putpalette(VOC.palette)
    assert decode_image(save(image, transparency=1))[0].tolist() == [[0, 0, 0], [0, 128, 0]]


@pytest.mark.parametrize("kind", [k for k in FORMATS if k not in ("AVIF", "JPEG2000")])
def test_formats(kind: str) -> None:
    assert decode_image(save(PIXELS, kind)).shape == PIXELS.shape


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA"])
def test_formats_that_data_sets_do_not_use_are_not_opened(kind: str) -> None:
    assert reason_of(save(PIXELS, kind)) is Reason.UNDECODABLE_IMAGE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_cut_files_are_told(kind: str) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = save(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    for share in (0.0, 0.1, 0.5, 0.9):
        assert reason_of(data[: int(len(data) * share)]) is Reason.UNDECODABLE_IMAGE


def test_limits_hold_before_any_pixel_is_decoded() -> None:
    data = save(np.zeros((100, 101), np.uint8))
    assert reason_of(data, max_pixels=10_000) is Reason.IMAGE_TOO_LARGE
    assert reason_of(data, decode_mask, max_pixels=10_000) is Reason.IMAGE_TOO_LARGE
    assert decode_image(data, max_pixels=10_100).shape == (100, 101, 3)


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_bombs_are_too_large_and_cost_nothing(side: int, recwarn: pytest.WarningsRecorder) -> None:
    import tracemalloc

    gc.collect()
    tracemalloc.start()
    assert reason_of(bomb(side)) is Reason.IMAGE_TOO_LARGE
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_messages_name_sample_found_and_fix_and_are_the_same_each_time() -> None:
    texts = set()
    for _ in range(3):
        with pytest.raises(ContractError) as caught:
            decode_image(b"no picture", "set/a.jpg")
        texts.add(str(caught.value))
    (text,) = texts
    assert text.startswith("set/a.jpg: undecodable_image: expected a complete image file, found 10 bytes")
    assert "Fix: " in text
    assert "0x" not in text


def test_masks_are_values_never_colours() -> None:
    assert reason_of(save(PIXELS), decode_mask) is Reason.WRONG_MASK_FORMAT
    assert reason_of(save(np.full((2, 2), 256, np.uint16)), decode_mask) is Reason.WRONG_MASK_FORMAT
    assert reason_of(b"", decode_mask) is Reason.UNDECODABLE_MASK
    assert decode_mask(save(np.full((2, 2), 255, np.uint16))).tolist() == [[255, 255]] * 2
    assert decode_mask(save(np.array([[True, False]]))).tolist() == [[1, 0]]
    for bits in (1, 2, 4):
        small = Image.fromarray(np.array([[0, 1, 1, 0, 1]], np.uint8))
        small.putpalette(VOC.palette)
        assert decode_mask(save(small, bits=bits)).tolist() == [[0, 1, 1, 0, 1]]


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int64), np.zeros(4, np.uint8)])
def test_only_label_maps_are_encoded(mask: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W\)"):
        encode_mask(mask)


FILES = [save(PIXELS, kind) for kind in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "PPM")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FILES), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_files_decode_or_raise_contract_errors(data: bytes, damage: list[tuple[int, int]]) -> None:
    spoilt = bytearray(data)
    for place, value in damage:
        spoilt[place % len(spoilt)] = value
    for decode in (decode_image, decode_mask):
        with suppress(ContractError):
            assert decode(bytes(spoilt), max_pixels=10_000).dtype == np.uint8


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=80))
@example(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
def test_any_bytes_raise_contract_errors(data: bytes) -> None:
    with suppress(ContractError):
        decode_image(data, max_pixels=10_000)
