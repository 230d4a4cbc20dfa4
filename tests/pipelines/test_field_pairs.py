"""Names that do not match by themselves: how people's photos, masks and lists find each other."""

import io
from pathlib import Path

import numpy as np
import pytest
from ingest_sets import VOC, Row, ingest, mask_of, photo, put, put_json
from ingest_sets import folder_source as source
from PIL import Image

from maskmill.data_contracts import LabelSpace, encode_mask
from maskmill.data_contracts.image_files import FORMATS
from maskmill.pipelines.ingest.cityscapes import CLASSES, CityscapesSource
from maskmill.pipelines.ingest.coco import CocoSource
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.voc import VocSource

NFC, NFD = "\u00fcber.png", "u\u0308ber.png"


def rectangle(value: int, height: int = 12, width: int = 16) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[3:8, 3:9] = value
    return mask


@pytest.mark.parametrize(
    ("on_disk", "in_json"),
    [
        ("job1/a.png", "job1\\a.png"),
        ("job1/a.png", ".\\job1\\a.png"),
        ("a.png", "images/a.png"),
        ("a.png", "images\\a.png"),
        ("a.png", "./a.png"),
        ("a.png", "/images/a.png"),
        ("a.png", "{root}/images/a.png"),
        ("a.png", "a.PNG"),
        ("A b.png", "A%20b.png"),
        (NFD, NFC),
        (NFC, NFD),
        ("deep/" + NFD, "images/deep/" + NFC),
    ],
)
def test_names_in_a_json_find_their_files(tmp_path: Path, on_disk: str, in_json: str) -> None:
    root = tmp_path / "set"
    put(root / "images" / on_disk, photo(kind="PNG"))
    image = {"id": 1, "file_name": in_json.replace("{root}", str(root)), "width": 16, "height": 12}
    note = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[3, 3, 9, 3, 9, 8, 3, 8]]}
    put_json(root / "a.json", {"images": [image], "annotations": [note], "categories": [{"id": 1, "name": "cat"}]})
    (row,), rejects = ingest(CocoSource(root=str(root), annotations="a.json"), tmp_path / "run")
    assert not rejects
    assert row["provenance"]["source_path"] == f"images/{on_disk}"
    assert np.array_equal(mask_of(row), rectangle(VOC.find("cat").id))


@pytest.mark.parametrize(
    ("on_disk", "in_json", "words"),
    [
        ("B.png", "b.png", "none, but images/B.png"),
        ("b.psd", "b.png", "none that is read, but images/b.psd"),
        ("a.png", "../a.png", "without '..'"),
        ("a.png", "C:\\data\\a.png", "C:"),
    ],
)
def test_names_that_no_file_has_say_what_comes_near(tmp_path: Path, on_disk: str, in_json: str, words: str) -> None:
    root = tmp_path / "set"
    put(root / "images" / on_disk, photo(kind="PNG"))
    image = {"id": 1, "file_name": in_json, "width": 16, "height": 12}
    put_json(root / "a.json", {"images": [image], "annotations": [], "categories": []})
    samples, rejects = ingest(CocoSource(root=str(root), annotations="a.json"), tmp_path / "run")
    assert not samples
    assert words in rejects[0]["detail"]


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".jfif", "JPEG"), (".jpe", "JPEG"), (".avif", "AVIF"), (".jp2", "JPEG2000"), (".ppm", "PPM"), (".webp", "WEBP")],
)
def test_every_suffix_of_a_format_that_is_opened_is_read(tmp_path: Path, suffix: str, kind: str) -> None:
    if kind not in FORMATS:
        pytest.skip(f"this Pillow does not open {kind}")
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo())).save(buffer, format=kind)
    put(tmp_path / f"set/images/a{suffix}", buffer.getvalue())
    put(tmp_path / "set/masks/a.png", encode_mask(rectangle(1)))
    (row,), rejects = ingest(FolderSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert not rejects
    assert np.array_equal(mask_of(row), rectangle(1))


def mask_file(value: int = 1) -> bytes:
    return encode_mask(rectangle(value))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/img_001.png", "masks/mask_001.png"),
        ("images/a_img.png", "masks/a_gt.png"),
        ("images/c_001_0000.png", "masks/c_001.png"),
        ("images/c_001.png", "masks/c_001_label.png"),
        ("images/train/aachen_000019_leftImg8bit.png", "masks/train/aachen_000019_gtFine_labelIds.png"),
        ("images/deep/img-7.png", "masks/deep/seg-7.png"),
        ("images/x (1).png", "masks/x (1)+m.png"),
        ("images/um_000000.png", "masks/um_road_000000.png"),
        ("images/case1/img.png", "masks/case1/seg.png"),
        ("images/21_training.png", "masks/21_manual1.png"),
    ],
)
def test_names_that_differ_are_told_a_pattern_that_pairs_them(tmp_path: Path, image: str, mask: str) -> None:
    put(tmp_path / "set" / image, photo(kind="PNG"))
    put(tmp_path / "set" / mask, mask_file())
    samples, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert not samples
    assert {row["reason"] for row in rejects} == {"missing_mask", "missing_image"}
    pattern = rejects[0]["detail"].split("source.pair: '")[1].rstrip("'")
    assert pattern in rejects[1]["detail"]
    samples, rejects = ingest(source(tmp_path / "set", pair=pattern), tmp_path / "again")
    assert [row["provenance"]["source_path"] for row in samples] == [image]
    assert not rejects
    assert np.array_equal(mask_of(samples[0]), rectangle(1))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("um_{}", "um_road_{}"),
        ("{}_training", "{}_manual1"),
        ("case{}/img", "case{}/seg"),
        ("IMG_{}", "IMG_{}_mask"),
        ("f{}", "mask_f{}"),
    ],
)
def test_several_names_that_differ_are_paired_each_with_its_own(tmp_path: Path, image: str, mask: str) -> None:
    for number in range(3):
        put(tmp_path / f"set/images/{image.format(f'{number:06d}')}.png", photo(number, kind="PNG"))
        put(tmp_path / f"set/masks/{mask.format(f'{number:06d}')}.png", mask_file(number + 1))
    _, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    pattern = rejects[0]["detail"].split("source.pair: '")[1].rstrip("'")
    samples, rejects = ingest(source(tmp_path / "set", pair=pattern), tmp_path / "again")
    assert not rejects
    assert [row["class_ids"] for row in samples] == [[1], [2], [3]]


@pytest.mark.parametrize(("image", "mask"), [("a1", "b2"), ("img_1", "img_2"), ("x/1", "1"), ("0001", "1")])
def test_two_numbers_are_two_samples(tmp_path: Path, image: str, mask: str) -> None:
    put(tmp_path / f"set/images/{image}.png", photo(kind="PNG"))
    put(tmp_path / f"set/masks/{mask}.png", mask_file())
    _, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert all("source.pair" not in row["detail"] for row in rejects)


def test_names_that_nothing_pairs_get_no_pattern(tmp_path: Path) -> None:
    put(tmp_path / "set/images/one.png", photo(kind="PNG"))
    put(tmp_path / "set/masks/three.png", mask_file())
    _, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert all("source.pair" not in row["detail"] for row in rejects)


@pytest.mark.parametrize("mask", ["a.jpg.png", "a.png"])
def test_a_mask_may_have_its_photos_whole_name(tmp_path: Path, mask: str) -> None:
    put(tmp_path / "set/images/a.jpg", photo())
    put(tmp_path / f"set/masks/{mask}", mask_file())
    (row,), rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert not rejects
    assert np.array_equal(mask_of(row), rectangle(1))


def test_two_masks_of_a_photo_are_never_guessed_between(tmp_path: Path) -> None:
    put(tmp_path / "set/images/a.jpg", photo())
    for name in ("a.jpg.png", "a.png"):
        put(tmp_path / f"set/masks/{name}", mask_file())
    _, (lost,) = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert lost["reason"] == "bad_annotation"
    assert "masks/a.jpg.png, masks/a.png" in lost["detail"]


def test_both_sides_in_one_folder_and_what_fits_neither(tmp_path: Path) -> None:
    for name, data in {
        "a_img": photo(kind="PNG"),
        "a_gt": mask_file(),
        "a_depth": mask_file(),
        "b_gt": mask_file(),
    }.items():
        put(tmp_path / f"set/{name}.png", data)
    pattern = "(?P<key>.+)_(?:(?P<image>img)|(?P<mask>gt))"
    (row,), rejects = ingest(source(tmp_path / "set", images="", masks="", pair=pattern), tmp_path / "run")
    assert row["provenance"]["source_path"] == "a_img.png"
    assert {r["source_path"]: r["reason"] for r in rejects} == {"b_gt.png": "missing_image", "a_depth.png": "not_read"}


def block(top: int, left: int, size: int, value: int = 255) -> bytes:
    mask = np.zeros((12, 16), np.uint8)
    mask[top : top + size, left : left + size] = value
    return encode_mask(mask)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"(?P<key>[^_]+)(?:_(?P<class>\w+))?", ("masks/a_cat.png", "masks/a_dog.png")),
        (r"(?P<key>[^_]+)(?:_(?P<class>\w+))?", ("masks/a_8.png", "masks/a_12.png")),
        (r"(?:(?P<class>[^/]+)/)?(?P<key>[^/]+)", ("masks/cat/a.png", "masks/dog/a.png")),
    ],
)
def test_a_file_a_class_is_united(tmp_path: Path, pattern: str, names: tuple[str, str]) -> None:
    """The smaller object lies on the larger one, whatever the order of the files."""
    put(tmp_path / "set/images/a.jpg", photo())
    put(tmp_path / "set" / names[0], block(2, 2, 8))
    put(tmp_path / "set" / names[1], block(4, 4, 3))
    (row,), rejects = ingest(source(tmp_path / "set", pair=pattern), tmp_path / "run")
    assert not rejects
    wanted = np.zeros((12, 16), np.uint8)
    wanted[2:10, 2:10] = VOC.find("cat").id
    wanted[4:7, 4:7] = VOC.find("dog").id
    assert np.array_equal(mask_of(row), wanted)


def test_a_file_an_object_is_united_and_faults_name_the_file(tmp_path: Path) -> None:
    """The layout of the nuclei sets: a folder a photo, its masks beside it in another."""
    root = tmp_path / "set"
    for key, second in (
        ("p1", block(6, 9, 2, 5)),
        ("p2", encode_mask(np.full((3, 3), 5, np.uint8))),
        ("p3", b"no image"),
    ):
        put(root / f"{key}/images/{key}.png", photo(int(key[1]), kind="PNG"))
        put(root / f"{key}/masks/x1.png", block(1, 1, 3, 5))
        put(root / f"{key}/masks/x2.png", second)
    pattern = "(?P<key>[^/]+)/(?:(?P<image>images)|(?P<mask>masks))/[^/]+"
    (row,), rejects = ingest(source(root, images="", masks="", pair=pattern), tmp_path / "run")
    assert (mask_of(row) == 5).sum() == 9 + 4
    words = {r["source_path"]: r["detail"] for r in rejects}
    assert words["p2/images/p2.png"].startswith("size_mismatch at p2/masks/x2.png: expected masks of one size (16x12")
    assert words["p3/images/p3.png"].startswith("undecodable_mask at p3/masks/x2.png")


def test_a_class_of_a_name_that_the_space_lacks_is_told(tmp_path: Path) -> None:
    put(tmp_path / "set/images/a.jpg", photo())
    put(tmp_path / "set/masks/a_yeti.png", block(2, 2, 8))
    _, (lost,) = ingest(source(tmp_path / "set", pair=r"(?P<key>[^_]+)(?:_(?P<class>\w+))?"), tmp_path / "run")
    assert lost["reason"] == "unknown_class_name"
    assert "masks/a_yeti.png" in lost["detail"]


@pytest.mark.parametrize("pattern", ["no groups", "(?P<key>.+)(?P<odd>x)", "(?P<key>.+", "(?P<mask>x)"])
def test_patterns_that_cannot_pair_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pair|regular|group|paren"):
        FolderSource(root=".", pair=pattern)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (rectangle(3), None),
        (rectangle(3)[None], None),
        (rectangle(3)[..., None].astype(np.int64), None),
        (rectangle(3).astype(np.float32), None),
        (rectangle(1).astype(bool), None),
        (np.stack([rectangle(1)] * 3), "shape (3, 12, 16)"),
        (rectangle(3) + 0.5, "values from 0.5 to 3.5"),
        (np.full((12, 16), np.nan), "NaN"),
        (rectangle(3).astype(np.int64) - 1, "values from -1"),
        (np.array([["a", "b"]]), "values of kind 'U'"),
        (np.array([{"x": 1}], dtype=object), "kind 'O'"),
    ],
)
def test_masks_as_arrays(tmp_path: Path, array: np.ndarray, words: str | None) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    put(tmp_path / "set/images/a.jpg", photo())
    put(tmp_path / "set/masks/a.npy", buffer.getvalue())
    samples, rejects = ingest(source(tmp_path / "set"), tmp_path / "run")
    if words is None:
        assert np.array_equal(mask_of(samples[0]), rectangle(int(array.max())))
    else:
        assert words in rejects[0]["detail"]
        assert "masks/a.npy" in rejects[0]["detail"]


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01\x00", b"no array", b"\x93NUMPY\x01\x00\x76\x00{'descr'"])
def test_broken_arrays_are_one_bad_row(tmp_path: Path, data: bytes) -> None:
    put(tmp_path / "set/images/a.jpg", photo())
    put(tmp_path / "set/masks/a.npy", data)
    _, (lost,) = ingest(source(tmp_path / "set"), tmp_path / "run")
    assert lost["reason"] == "undecodable_mask"


@pytest.mark.parametrize(
    "line",
    [
        "a b",
        "a b.png",
        "a b 1",
        "a b -1",
        "/images/a b.png /masks/a b.png",
        "images/a b.png masks/a b.png",
        "a b\tmore words",
        "images/a b",
        ".\\images\\a b.png",
        "images/a b.png,masks/a b.png",
        "a b.png; masks/a b.png",
    ],
)
def test_lists_may_hold_blanks_and_pairs(tmp_path: Path, line: str) -> None:
    put(tmp_path / "set/images/a b.png", photo(kind="PNG"))
    put(tmp_path / "set/masks/a b.png", mask_file())
    put(tmp_path / "set/list.txt", f"{line}\r\n\r\n")
    (row,), rejects = ingest(source(tmp_path / "set", stems="list.txt"), tmp_path / "run")
    assert not rejects
    assert row["provenance"]["source_path"] == "images/a b.png"
    assert np.array_equal(mask_of(row), rectangle(1))


def test_a_list_of_pairs_may_name_masks_of_another_folder(tmp_path: Path) -> None:
    root = tmp_path / "set"
    put(root / "JPEGImages/a.jpg", photo())
    put(root / "SegmentationClass/a.png", mask_file(1))
    put(root / "SegmentationClassAug/a.png", mask_file(7))
    put(root / "SegmentationClass/b.png", mask_file(1))
    put(root / "JPEGImages/b.jpg", photo(1))
    lines = "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\n"
    put(root / "ImageSets/Segmentation/trainval.txt", lines)
    (row,), (lost,) = ingest(VocSource(root=str(root)), tmp_path / "run")
    assert np.array_equal(mask_of(row), rectangle(7))
    assert lost["detail"].startswith("missing_mask at ImageSets/Segmentation/trainval.txt, line 2")


XML = "<annotation><object><name>cat</name>{box}</object></annotation>"


@pytest.mark.parametrize("box", ["", "<polygon><x1>4</x1></polygon>", "<bndbox><xmin>9</xmin><xmax>1</xmax></bndbox>"])
def test_an_object_needs_no_box_to_lend_its_name(tmp_path: Path, box: str) -> None:
    (row,) = voc_sample(tmp_path, XML.format(box=box).encode())
    assert row["prompt_class_ids"] == [VOC.find("cat").id]


@pytest.mark.parametrize("encoding", ["GB2312", "Shift_JIS", "EUC-KR", "windows-1252", "utf-8", "UTF-16"])
def test_xml_in_any_encoding_that_it_declares(tmp_path: Path, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{XML.format(box="")}'
    (row,) = voc_sample(tmp_path, text.encode(encoding))
    assert row["prompt_class_ids"] == [VOC.find("cat").id]


def voc_sample(tmp_path: Path, xml: bytes) -> list[Row]:
    root = tmp_path / "set"
    put(root / "JPEGImages/a.jpg", photo())
    put(root / "SegmentationClass/a.png", mask_file(8))
    put(root / "Annotations/a.xml", xml)
    put(root / "ImageSets/Segmentation/trainval.txt", "a\n")
    samples, rejects = ingest(VocSource(root=str(root)), tmp_path / "run")
    assert not rejects
    return samples


def test_cityscapes_as_it_is_unpacked(tmp_path: Path) -> None:
    place = "train/aachen/aachen_000000_000019"
    put(tmp_path / f"set/leftImg8bit/{place}_leftImg8bit.png", photo(kind="PNG"))
    for kind in ("labelIds", "color", "instanceIds"):
        put(
            tmp_path / f"set/gtFine/{place}_gtFine_{kind}.png",
            encode_mask(np.where(rectangle(1), 26, 3).astype(np.uint8)),
        )
    put(tmp_path / f"set/gtFine/{place}_gtFine_polygons.json", "{}")
    space = LabelSpace.from_names(list(CLASSES.values()), "cityscapes")
    (row,), rejects = ingest(CityscapesSource(root=str(tmp_path / "set")), tmp_path / "run", space)
    assert np.array_equal(mask_of(row), np.where(rectangle(1), space.find("car").id, 255))
    assert {r["reason"] for r in rejects} == {"not_read"}
    assert len(rejects) == 3
