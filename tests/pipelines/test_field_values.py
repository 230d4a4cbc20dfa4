"""Masks and photos as people have them: what means one thing is read, the rest gets a reason whose advice works."""

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ingest_sets import ingest, mask_of, photo, put
from one_pair import SPACE, Mask, folder, read, refused, save, shape
from PIL import Image

from maskmill.data_contracts import (
    Instance,
    LabelSpace,
    decode_image,
    encode_image,
    encode_mask,
)
from maskmill.data_contracts.labels import voc_colour
from maskmill.pipelines.core.ledger import build_ledger
from maskmill.pipelines.ingest.folder import FolderSource

RNG = np.random.default_rng(0)


def in_palette(mask: Mask, colours: list[int]) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(colours)
    return save(image)


# --- masks that can mean one thing


READ: dict[str, bytes] = {
    "ids in three equal channels": save(np.dstack([shape()] * 3)),
    "ids in four, the last opaque": save(np.dstack([shape()] * 3 + [np.full((20, 30), 255, np.uint8)])),
    "ids in four, the last unused": save(np.dstack([shape()] * 3 + [np.zeros((20, 30), np.uint8)])),
    "grey with alpha": save(Image.merge("LA", [Image.fromarray(shape()), Image.new("L", (30, 20), 255)])),
    "16 bits": save(shape().astype(np.uint16)),
    "32 bits": save(shape().astype(np.int32), "TIFF"),
    "floats": save(shape().astype(np.float32), "TIFF"),
    "floats near whole numbers": save(shape().astype(np.float32) * np.float32(0.9999999), "TIFF"),
    "one bit": save(Image.fromarray(shape() > 0)),
    "lossless WebP": save(np.dstack([shape()] * 3), "WEBP", lossless=True),
    "a palette of its own colours in our order": in_palette(shape(), [0, 0, 0, 255, 0, 0]),
    "a palette of black alone": in_palette(shape(), [0] * 768),
    "a grey palette": in_palette(shape(), [v for i in range(256) for v in (i, i, i)]),
}


@pytest.mark.parametrize("name", READ)
def test_masks_that_can_mean_one_thing_are_read(name: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, READ[name]), shape())


def test_smaller_copies_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    small = Image.fromarray(shape()[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    Image.fromarray(shape()).save(buffer, format="TIFF", save_all=True, append_images=[small])
    assert Image.open(io.BytesIO(buffer.getvalue())).n_frames == 2  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read(tmp_path, buffer.getvalue()), shape())


# --- 0 and 255


@pytest.mark.parametrize("allow_empty", [False, True])
@pytest.mark.parametrize("mask", [shape(255), np.dstack([shape(255)] * 3), np.full((20, 30), 255, np.uint8)])
def test_masks_of_0_and_255_are_asked_about(mask: Mask, allow_empty: bool, tmp_path: Path) -> None:
    detail = refused(tmp_path, save(mask), allow_empty=allow_empty)
    assert "255, which means ignore" in detail
    assert "remap: {255: cat}" in detail
    assert "allow_empty" not in detail
    object_of = (mask if mask.ndim == 2 else mask[..., 0]) // 255
    np.testing.assert_array_equal(read(tmp_path, save(mask), remap={255: "cat"}), object_of)
    ignored = read(tmp_path, save(mask), remap={255: "ignore"}, allow_empty=True)
    np.testing.assert_array_equal(ignored, object_of * 255)


def test_255_beside_classes_or_in_a_palette_is_ignore(tmp_path: Path) -> None:
    edge = shape()
    edge[3] = 255
    np.testing.assert_array_equal(read(tmp_path, save(edge)), edge)
    np.testing.assert_array_equal(read(tmp_path, encode_mask(shape(255), SPACE.palette), allow_empty=True), shape(255))


# --- lossy files


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [("JPEG", "a.jpg", {"quality": 70}), ("JPEG", "a.png", {"quality": 100}), ("WEBP", "a.webp", {"quality": 80})],
)
def test_lossy_masks_are_named_so_and_the_remedy_works(
    kind: str, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    grey = Image.fromarray(shape(255))
    lossy = save(grey if kind == "JPEG" else grey.convert("RGB"), kind, **options)
    detail = refused(tmp_path, lossy, names=("a.png", name), remap={255: "cat"})
    assert f"{kind}, which changes values" in detail
    assert "as PNG" in detail
    (tmp_path / "set/masks" / name).unlink()
    cut = Image.open(io.BytesIO(lossy)).convert("L").point(lambda v: 255 * (v > 127))
    np.testing.assert_array_equal(read(tmp_path, save(cut), remap={255: "cat"}), shape())


# --- ids over 255


def test_ids_over_255_are_mapped_by_remap(tmp_path: Path) -> None:
    wide = save(shape().astype(np.uint16) * 26_001)
    detail = refused(tmp_path, wide)
    for word in ("26001 on 72 pixels", "remap: {26001: cat}", "instance_step: 1000", "remap: {26: cat}"):
        assert word in detail
    np.testing.assert_array_equal(read(tmp_path, wide, remap={26_001: "cat"}), shape())
    np.testing.assert_array_equal(read(tmp_path, wide, instance_step=1000, remap={26: "cat"}), shape())


def test_class_times_step_plus_number_are_objects(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint16)
    values[0:5, 0:10], values[0:5, 10:20], values[10:15] = 26_001, 26_002, 24
    row, _ = folder(tmp_path, save(values), instance_step=1000, remap={26: "cat", 24: "dog"})
    assert row is not None
    assert [(one["class_id"], one["source_id"]) for one in row["instances"]] == [(2, "24"), (1, "26001"), (1, "26002")]
    second = Instance.read(row["instances"][2], 20, 30).mask
    assert second is not None
    np.testing.assert_array_equal(second, values == 26_002)


def test_negative_values_and_fractions_are_told(tmp_path: Path) -> None:
    below = save(shape().astype(np.int32) * -1, "TIFF")
    assert "-1 on 72 pixels" in refused(tmp_path, below)
    np.testing.assert_array_equal(read(tmp_path, below, remap={-1: "dog"}), shape(2))
    detail = refused(tmp_path / "f", save(shape().astype(np.float32) * np.float32(0.6), "TIFF"))
    assert "floats from 0 to 0.6 that are not whole" in detail


# --- colours and palettes


def painted(colours: dict[int, tuple[int, int, int]], mask: Mask) -> Mask:
    pixels = np.zeros((*mask.shape, 3), np.uint8)
    for value, colour in colours.items():
        pixels[mask == value] = colour
    return pixels


def test_colours_are_listed_and_the_advice_reads_them(tmp_path: Path) -> None:
    pixels = painted({1: (255, 0, 0)}, shape())
    detail = refused(tmp_path, encode_image(pixels))
    assert "mode RGB with 2 colours, mostly 0,0,0; 255,0,0" in detail
    assert 'colours: {"0,0,0": background, "255,0,0": cat}' in detail
    colours = {"0,0,0": "background", "255,0,0": "cat"}
    np.testing.assert_array_equal(read(tmp_path, encode_image(pixels), colours=colours), shape())
    clear = np.dstack([pixels, np.where(shape() > 0, 255, 0).astype(np.uint8)])
    assert "mode RGBA" in refused(tmp_path, save(clear))
    np.testing.assert_array_equal(read(tmp_path, save(clear), colours=colours), shape())


def test_a_photo_among_the_masks_is_called_one(tmp_path: Path) -> None:
    detail = refused(tmp_path, encode_image(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)))
    assert "is a mask and no photo" in detail


def test_a_palette_in_an_order_of_its_own_is_told_and_read_by_colour(tmp_path: Path) -> None:
    turned = in_palette(1 - shape(), [255, 0, 0, 0, 0, 0])
    detail = refused(tmp_path, turned)
    assert "index 1 in 0,0,0, the colour of id 0" in detail
    assert 'colours: {"255,0,0": cat, "0,0,0": background}' in detail
    colours = {"255,0,0": "cat", "0,0,0": "background"}
    np.testing.assert_array_equal(read(tmp_path, turned, colours=colours), shape())
    np.testing.assert_array_equal(read(tmp_path, in_palette(shape(), [0, 0, 0, 255, 0, 0]), colours=colours), shape())
    np.testing.assert_array_equal(read(tmp_path, turned, remap={0: "cat", 1: "background"}), shape())


def test_a_palette_in_the_colours_of_other_classes_is_told(tmp_path: Path) -> None:
    classes = [{"id": 1, "name": "cat", "colour": [10, 20, 30]}, {"id": 2, "name": "dog", "colour": [40, 50, 60]}]
    space = LabelSpace.model_validate({"name": "t", "classes": classes})
    put(tmp_path / "set/images/a.png", photo(1, 20, 30, "PNG"))
    put(tmp_path / "set/masks/a.png", in_palette(shape(), [0, 0, 0, 40, 50, 60, 10, 20, 30]))
    _, (lost,) = ingest(FolderSource(root=str(tmp_path / "set")), tmp_path / "run", space)
    assert "index 1 in 40,50,60, the colour of id 2" in lost["detail"]
    assert '"40,50,60": dog' in lost["detail"]


@pytest.mark.parametrize("background", [0, 5, None])
def test_palettes_that_only_decorate_ids_say_nothing(background: int | None, tmp_path: Path) -> None:
    """VOC's palette on the masks of a space with colours of its own: CamVid's masks are often stored so."""
    classes = [{"id": i, "name": f"c{i}", "colour": voc_colour(i + 2)} for i in range(1, 4)]
    space = LabelSpace.model_validate({"name": "t", "classes": classes, "background_id": background})
    mask = shape(3)
    mask[12:14] = 1
    mask[mask == 0] = 2 if background is None else background
    for name, palette in (("a", SPACE.palette), ("b", [v for i in range(256) for v in (7 * i % 256, 90, i)])):
        put(tmp_path / f"set/images/{name}.png", photo(ord(name), 20, 30, "PNG"))
        put(tmp_path / f"set/masks/{name}.png", in_palette(mask, palette))
    rows, _ = ingest(FolderSource(root=str(tmp_path / "set")), tmp_path / "run", space)
    assert len(rows) == 2
    for row in rows:
        np.testing.assert_array_equal(mask_of(row), mask)


def test_transparency_that_varies_and_deep_colours_are_told(tmp_path: Path) -> None:
    alpha = Image.merge("LA", [Image.fromarray(shape()), Image.fromarray(shape(200))])
    assert "transparency goes from 0 to 200" in refused(tmp_path, save(alpha))
    ok, deep = cv2.imencode(".png", np.dstack([shape()] * 3).astype(np.uint16))
    assert ok
    assert "colours of 16 bits" in refused(tmp_path / "d", deep.tobytes())


# --- pages


def pages(kind: str = "TIFF") -> bytes:
    return save(Image.fromarray(shape()), kind, save_all=True, append_images=[Image.fromarray(shape(2))])


def test_pages_of_masks_are_counted_and_chosen(tmp_path: Path) -> None:
    detail = refused(tmp_path, pages(), names=("a.png", "a.tif"))
    assert "expected one page, found a TIFF of 2 pages" in detail
    assert "source.page (0 to 1)" in detail
    for page, value in ((0, 1), (1, 2)):
        np.testing.assert_array_equal(read(tmp_path, pages(), names=("a.png", "a.tif"), page=page), shape(value))
    assert "no page 2" in refused(tmp_path, pages(), names=("a.png", "a.tif"), page=2)


@pytest.mark.parametrize(("kind", "suffix"), [("TIFF", "tif"), ("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp")])
def test_pages_of_photos_are_counted_and_chosen(kind: str, suffix: str, tmp_path: Path) -> None:
    two = [Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(2)]
    data = save(two[0], kind, save_all=True, append_images=two[1:], **({"lossless": True} if kind == "WEBP" else {}))
    names = (f"a.{suffix}", "a.png")
    assert f"a {kind} of 2 pages" in refused(tmp_path, save(shape()), data, names=names)
    row, detail = folder(tmp_path, save(shape()), data, names=names, page=1)
    assert row is not None, detail
    assert json.loads(row["provenance"]["extra"])["page"] == 1
    seen = decode_image(row["image"]["bytes"])  # every later reader sees the same page
    if kind != "GIF":
        np.testing.assert_array_equal(seen, np.asarray(two[1]))


# --- EXIF


def turned_photo(orientation: int, height: int = 20, width: int = 30) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(Image.open(io.BytesIO(photo(1, height, width))), "JPEG", exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_on_stored_pixels_are_told_and_turned_on_request(orientation: int, tmp_path: Path) -> None:
    names = ("a.jpg", "a.png")
    detail = refused(tmp_path, save(shape()), turned_photo(orientation), names=names)
    assert f"EXIF orientation {orientation}" in detail
    assert "masks_drawn_on: stored" in detail
    assert "resize" not in detail
    found = read(tmp_path, save(shape()), turned_photo(orientation), names=names, masks_drawn_on="stored")
    exif = Image.Exif()
    exif[0x0112] = orientation
    wanted = decode_image(save(np.dstack([shape()] * 3), exif=exif))[..., 0]
    np.testing.assert_array_equal(found, wanted)


def test_masks_on_the_upright_photo_are_taken_as_such_and_counted(tmp_path: Path) -> None:
    upright = np.ascontiguousarray(shape().T)
    found = read(tmp_path, save(upright), turned_photo(6), names=("a.jpg", "a.png"))
    np.testing.assert_array_equal(found, upright)
    assert build_ledger(str(tmp_path / "run0")).notes == {"photos turned by EXIF, mask taken as upright": 1}
    read(tmp_path, save(upright), turned_photo(6), names=("a.jpg", "a.png"), masks_drawn_on="upright")
    assert build_ledger(str(tmp_path / "run1")).notes == {}


def test_a_mask_with_an_exif_tag_of_its_own_is_turned_with_its_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = save(shape(), exif=exif)
    found = read(tmp_path, mask, turned_photo(6), names=("a.jpg", "a.png"))
    np.testing.assert_array_equal(found, np.rot90(shape(), -1))
