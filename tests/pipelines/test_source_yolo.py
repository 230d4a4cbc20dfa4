"""YOLO segmentation sets, as ultralytics, Roboflow and our own export lay them out."""

from pathlib import Path

import numpy as np
import pytest
from ingest_sets import ingest, mask_of, photo, put, reasons

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.ingest.yolo import YoloSource

PETS = LabelSpace.from_names(["cat", "dog"], "pets")
SQUARE = "0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"  # columns 4..8, rows 3..6 of a photo of 16x12
WANTED = np.zeros((12, 16), np.uint8)
WANTED[3:6, 4:8] = 1


def make(root: Path, line: str = f"0 {SQUARE}", names: str = "names: [cat, dog]", at: str = "train/images/a") -> Path:
    put(root / "data.yaml", f"path: /somewhere/else\ntrain: ../train/images\nval: valid/images\nnc: 2\n{names}\n")
    put(root / f"{at}.jpg", photo())
    put(root / f"{at.replace('images/', 'labels/')}.txt", line)
    return root


def yolo(root: Path, **options: object) -> YoloSource:
    return YoloSource.model_validate({"root": str(root), **options})


@pytest.mark.parametrize("names", ["names: [cat, dog]", "names: {0: cat, 1: dog}", "names:\n  0: cat\n  1: dog"])
@pytest.mark.parametrize("at", ["train/images/a", "images/train/deep/a", "images/a"])
def test_outlines_become_masks_and_instances(tmp_path: Path, names: str, at: str) -> None:
    (row,), rejects = ingest(yolo(make(tmp_path / "set", names=names, at=at)), tmp_path / "run", PETS)
    assert not rejects
    assert np.array_equal(mask_of(row), WANTED)
    assert [one["class_id"] for one in row["instances"]] == [1]


def test_touching_objects_stay_two(tmp_path: Path) -> None:
    lines = f"0 {SQUARE}\n1 0.5 0.25 0.75 0.25 0.75 0.5 0.5 0.5\n0 0.25 0.5 0.5 0.5 0.5 0.75 0.25 0.75\n"
    (row,), _ = ingest(yolo(make(tmp_path / "set", lines)), tmp_path / "run", PETS)
    assert sorted(one["class_id"] for one in row["instances"]) == [1, 1, 2]
    assert (mask_of(row) == 1).sum() == 2 * (mask_of(row) == 2).sum() == 24


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7 " + SQUARE, "a class of 0..1"),
        ("0.5 " + SQUARE, "a class of 0..1"),
        ("0 40 30 80 30 80 60", "fractions of 0..1"),
        ("0 0.1 0.1 0.2", "3 numbers behind the class"),
        (f"0 {SQUARE} 0.93", "no confidences"),
        ("cat " + SQUARE, "numbers"),
        ("0 nan nan nan nan nan nan", "fractions of 0..1"),
        ("0 0.5 0.5 0.2 0.2", "boxes"),
    ],
)
def test_lines_that_are_no_outlines_name_their_line(tmp_path: Path, line: str, words: str) -> None:
    root = make(tmp_path / "set", f"0 {SQUARE}\n{line}\n")
    _, (lost,) = ingest(yolo(root), tmp_path / "run", PETS)
    assert lost["reason"] == "bad_annotation"
    assert words in lost["detail"]
    assert "train/labels/a.txt, line 2" in lost["detail"]


@pytest.mark.parametrize(("boxes", "filled"), [("fill", 1), ("ignore", 255), ("label", 255)])
def test_boxes_become_what_the_option_says(tmp_path: Path, boxes: str, filled: int) -> None:
    root = make(tmp_path / "set", f"1 {SQUARE}\n0 0.75 0.75 0.25 0.25")
    (row,), _ = ingest(yolo(root, boxes=boxes), tmp_path / "run", PETS)
    assert mask_of(row)[9, 12] == filled


def test_splits_are_found_wherever_their_paths_point(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    put(root / "valid/images/b.jpg", photo(1))
    put(root / "valid/labels/b.txt", f"1 {SQUARE}")
    (row,), _ = ingest(yolo(root, split="train"), tmp_path / "run", PETS)
    assert row["provenance"]["source_path"] == "train/images/a.jpg"
    (row,), _ = ingest(yolo(root, split="val"), tmp_path / "val", PETS)
    assert row["class_ids"] == [2]
    with pytest.raises(ValueError, match=r"data\.yaml: test: expected a folder"):
        ingest(yolo(root, split="test"), tmp_path / "test", PETS)
    put(root / "data.yaml", "train: train.txt\nnames: [cat, dog]")
    put(root / "train.txt", "./valid/images/b.jpg\n")
    (row,), _ = ingest(yolo(root, split="train"), tmp_path / "list", PETS)
    assert row["provenance"]["source_path"] == "valid/images/b.jpg"


def test_photos_without_a_file_are_told_or_taken_as_empty(tmp_path: Path) -> None:
    root = make(tmp_path / "set")
    put(root / "train/images/empty.jpg", photo(5))
    put(root / "train/labels/gone.txt", f"0 {SQUARE}")
    put(root / "README.roboflow.txt", "x")
    _, rejects = ingest(yolo(root), tmp_path / "run", PETS)
    assert reasons(rejects) == {
        "train/images/empty.jpg": "missing_mask",
        "train/labels/gone.txt": "missing_image",
        "README.roboflow.txt": "not_read",
    }
    assert "train/labels/empty.txt" in rejects[0]["detail"]
    samples, _ = ingest(yolo(root, allow_empty=True), tmp_path / "again", PETS)
    assert sorted(row["class_ids"] for row in samples) == [[], [1]]


def test_names_come_from_the_data(tmp_path: Path) -> None:
    space = yolo(make(tmp_path / "set")).own_space()
    assert [(c.id, c.name, c.source_id) for c in space.classes] == [(1, "cat", 0), (2, "dog", 1)]
    put(tmp_path / "set/data.yaml", "train: x")
    with pytest.raises(ValueError, match=r"data\.yaml: expected `names`"):
        yolo(tmp_path / "set").own_space()


def test_outlines_through_pixels_hold_their_outline(tmp_path: Path) -> None:
    line = "0 0.2656 0.2709 0.4531 0.2709 0.4531 0.4376 0.2656 0.4376"  # pixels 4..7 and 3..5, a quarter further
    root = make(tmp_path / "set", f"{line}\n1 0.0157 0.0209 0.0157 0.0209 0.0157 0.0209")
    (row,), rejects = ingest(yolo(root, corners="pixels"), tmp_path / "run", PETS)
    wanted = WANTED.copy()
    wanted[0, 0] = 2  # an object of one pixel
    assert not rejects
    np.testing.assert_array_equal(mask_of(row), wanted)
    (row,), _ = ingest(yolo(root), tmp_path / "edges", PETS)
    assert (mask_of(row) > 0).sum() < 12
