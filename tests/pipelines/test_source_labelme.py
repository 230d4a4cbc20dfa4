"""labelme's JSON files: every shape, photos beside and inside, and what is wrong with them."""

import base64
from pathlib import Path

import numpy as np
import pytest
from ingest_sets import ingest, mask_of, photo, put, put_json, reasons

from maskmill.data_contracts import LabelSpace, encode_mask
from maskmill.pipelines.ingest.labelme import LabelmeSource

PETS = LabelSpace.from_names(["cat", "dog"], "pets")
SQUARE = [[4, 3], [8, 3], [8, 6], [4, 6]]
WANTED = np.zeros((12, 16), np.uint8)
WANTED[3:6, 4:8] = 1


def shape(label: str = "cat", points: object = SQUARE, kind: str = "polygon", **more: object) -> dict[str, object]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def make(root: Path, *shapes: object, path: str = "a.jpg", at: str = "a.jpg", **more: object) -> LabelmeSource:
    note = {"imagePath": path, "imageData": None, "imageHeight": 12, "imageWidth": 16, "shapes": list(shapes), **more}
    put_json(root / "a.json", note)
    if at:
        put(root / at, photo())
    return LabelmeSource(root=str(root))


PATCH = {"mask": base64.b64encode(encode_mask(np.ones((3, 4), np.uint8))).decode()}


@pytest.mark.parametrize(
    "one",
    [
        shape(),
        shape(points=[[4, 3], [8, 6]], kind="rectangle"),
        shape(points=[[8, 6], [4, 3]], kind="rectangle"),
        shape(points=[[4, 3], [7, 5]], kind="mask", **PATCH),
    ],
)
def test_every_shape_with_an_area_is_drawn(tmp_path: Path, one: dict[str, object]) -> None:
    (row,), rejects = ingest(make(tmp_path / "set", one), tmp_path / "run", PETS)
    assert not rejects
    assert np.array_equal(mask_of(row), WANTED)
    assert [instance["class_id"] for instance in row["instances"]] == [1]


def test_circles_are_discs(tmp_path: Path) -> None:
    (row,), _ = ingest(make(tmp_path / "set", shape(points=[[8, 6], [11, 6]], kind="circle")), tmp_path / "run", PETS)
    assert 24 <= (mask_of(row) == 1).sum() <= 32


def test_a_group_is_one_object(tmp_path: Path) -> None:
    parts = [
        shape(group_id=3),
        shape(points=[[10, 8], [13, 8], [13, 11]], group_id=3),
        shape("dog", [[0, 0], [2, 0], [2, 2]]),
    ]
    (row,), _ = ingest(make(tmp_path / "set", *parts), tmp_path / "run", PETS)
    assert [one["class_id"] for one in row["instances"]] == [1, 2]


@pytest.mark.parametrize(
    ("path", "at"),
    [
        ("a.jpg", "a.jpg"),
        ("..\\set\\photos\\a.jpg", "a.jpg"),
        ("photos/a.jpg", "photos/a.jpg"),
        ("C:\\data\\a.jpg", "a.jpg"),
        ("gone.jpg", "a.jpg"),
        ("", "a.png"),
    ],
)
def test_photos_are_found_by_path_name_or_stem(tmp_path: Path, path: str, at: str) -> None:
    (row,), rejects = ingest(make(tmp_path / "set", shape(), path=path, at=at), tmp_path / "run", PETS)
    assert not rejects
    assert row["provenance"]["source_path"] == at


def test_a_photo_may_lie_inside(tmp_path: Path) -> None:
    data = base64.b64encode(photo(3)).decode()
    (row,), _ = ingest(make(tmp_path / "set", shape(), at="", imageData=data), tmp_path / "run", PETS)
    assert row["image"]["bytes"] == photo(3)
    assert row["provenance"]["source_path"] == "a.json"


@pytest.mark.parametrize(
    ("one", "reason", "words"),
    [
        (shape("yeti"), "unknown_class_name", "'yeti'"),
        (shape(points=[[1, 1]], kind="point"), "bad_annotation", "a point of 1 points"),
        (shape(points=[[1, 1], [2, 2]], kind="line"), "bad_annotation", "others: skip"),
        (shape(points=[[1, 1], [2, 2]]), "bad_annotation", "a polygon of 2 points"),
        (shape(points=[[1, "x"]]), "bad_annotation", "a label and points"),
        (None, "bad_annotation", "a label and points"),
        (shape(points=[[4, 3], [7, 5]], kind="mask", mask="???"), "bad_annotation", "base64"),
        (shape(points=[[14, 3], [7, 5]], kind="mask", **PATCH), "bad_annotation", "a mask within 16x12"),
    ],
)
def test_shapes_that_cannot_be_drawn_name_their_place(tmp_path: Path, one: object, reason: str, words: str) -> None:
    _, (lost,) = ingest(make(tmp_path / "set", shape("dog"), one), tmp_path / "run", PETS)
    assert lost["reason"] == reason
    assert words in lost["detail"]
    assert "a.json, shape 1" in lost["detail"]


def test_points_and_lines_can_be_left_out(tmp_path: Path) -> None:
    source = make(tmp_path / "set", shape(), shape("nose", [[1, 1]], "point"))
    (row,), _ = ingest(source.model_copy(update={"others": "skip"}), tmp_path / "run", PETS)
    assert np.array_equal(mask_of(row), WANTED)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 9000, b"\xff\xfe{}"])
def test_files_that_are_no_labelme_files_are_one_reject(tmp_path: Path, text: str | bytes) -> None:
    source = make(tmp_path / "set", shape())
    put(tmp_path / "set/odd.json", text)
    samples, rejects = ingest(source, tmp_path / "run", PETS)
    assert len(samples) == 1
    assert reasons(rejects) == {"odd.json": "bad_annotation"}


def test_photos_of_another_size_and_without_a_file_are_told(tmp_path: Path) -> None:
    source = make(tmp_path / "set", shape(), imageWidth=17)
    put(tmp_path / "set/lone.jpg", photo(4))
    _, rejects = ingest(source, tmp_path / "run", PETS)
    assert reasons(rejects) == {"a.jpg": "size_mismatch", "lone.jpg": "missing_mask"}


def test_labels_make_the_space(tmp_path: Path) -> None:
    corner = [[10, 8], [13, 8], [13, 11]]
    shapes = (
        shape("dog"),
        shape("cat", [[0, 0], [3, 0], [3, 2]]),
        shape("_background_", corner),
        shape("__ignore__", corner),
    )
    source = make(tmp_path / "set", *shapes)
    space = source.own_space()
    assert [(c.id, c.name) for c in space.classes] == [(1, "cat"), (2, "dog")]
    (row,), _ = ingest(source, tmp_path / "run", space)
    assert row["class_ids"] == [1, 2]
    assert mask_of(row)[9, 12] == 255
