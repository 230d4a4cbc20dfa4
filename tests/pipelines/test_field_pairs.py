"""Names that do not match by themselves: how people's photos, masks and lists find each other."""

import io
from pathlib import Path

import numpy as np
import pytest
from ingest_sets import VOC, ingest, mask_of, photo, put, put_json
from PIL import Image

from maskmill.data_contracts.images import FORMATS
from maskmill.pipelines.ingest.coco import CocoSource

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
    from maskmill.data_contracts import encode_mask
    from maskmill.pipelines.ingest.folder import FolderSource

    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo())).save(buffer, format=kind)
    put(tmp_path / f"set/images/a{suffix}", buffer.getvalue())
    put(tmp_path / "set/masks/a.png", encode_mask(rectangle(1)))
    (row,), rejects = ingest(FolderSource(root=str(tmp_path / "set")), tmp_path / "run")
    assert not rejects
    assert np.array_equal(mask_of(row), rectangle(1))
