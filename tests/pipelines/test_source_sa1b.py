"""SA-1B: run lengths without classes."""

from pathlib import Path

import numpy as np
import pytest
from ingest_sets import ingest, mask_of, photo, put, put_json, reasons

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.data_contracts.rle import pack_mask
from maskmill.pipelines.ingest.sa1b import Sa1bSource

THINGS = LabelSpace.from_names(["thing"], "things")


def square(top: int, left: int, size: int) -> Uint8Array:
    mask = np.zeros((12, 16), np.uint8)
    mask[top : top + size, left : left + size] = 1
    return mask


def note(number: int, mask: Uint8Array, **more: object) -> dict[str, object]:
    runs = {"size": [12, 16], "counts": pack_mask(mask.astype(bool))}
    return {"id": number, "segmentation": runs, "predicted_iou": 0.5, "bbox": [0, 0, 1, 1], **more}


def make(root: Path, notes: object) -> Sa1bSource:
    put(root / "sa_1.jpg", photo())
    put_json(root / "sa_1.json", {"image": {"image_id": 1, "file_name": "sa_1.jpg"}, "annotations": notes})
    return Sa1bSource(root=str(root))


def test_objects_are_kept_apart(tmp_path: Path) -> None:
    source = make(tmp_path / "set", [note(1, square(1, 1, 8)), note(2, square(2, 2, 3)), note(3, square(1, 9, 3))])
    (row,), rejects = ingest(source, tmp_path / "run", THINGS)
    assert not rejects
    assert np.array_equal(mask_of(row), square(1, 1, 8) | square(1, 9, 3))
    assert [(one["source_id"], one["score"]) for one in row["instances"]] == [("1", 0.5), ("2", 0.5), ("3", 0.5)]


def test_several_classes_need_a_name_and_the_advice_works(tmp_path: Path) -> None:
    source, pets = make(tmp_path / "set", [note(1, square(1, 1, 8))]), LabelSpace.from_names(["cat", "dog"])
    _, (lost,) = ingest(source, tmp_path / "run", pets)
    assert "source.shared" in lost["detail"]
    (row,), _ = ingest(source.model_copy(update={"shared": "dog"}), tmp_path / "again", pets)
    assert row["class_ids"] == [2]


@pytest.mark.parametrize("notes", [None, [1], "x"])
def test_odd_files_and_lone_ones_are_told(tmp_path: Path, notes: object) -> None:
    source = make(tmp_path / "set", notes)
    put(tmp_path / "set/sa_2.jpg", photo(2))
    put_json(tmp_path / "set/sa_3.json", {})
    _, rejects = ingest(source, tmp_path / "run", THINGS)
    assert reasons(rejects) == {"sa_1.jpg": "bad_annotation", "sa_2.jpg": "missing_mask", "sa_3.json": "missing_image"}
