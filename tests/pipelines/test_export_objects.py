"""Objects leave as objects: two that touch are two in every format, and come back with the label map unchanged."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ingest_sets import ingest, mask_of, photo, put
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts import SAMPLE, Instance, LabelSpace, decode_image, encode_mask, read_instances
from maskmill.pipelines.export import create_exporter
from maskmill.pipelines.export.objects import object_map, seen, whole
from maskmill.pipelines.export.sample import ExportSample, portable_image
from maskmill.pipelines.export.voc import encode_objects
from maskmill.pipelines.ingest import SOURCES
from maskmill.pipelines.stages.label import _item

SPACE = LabelSpace.from_names(["cow", "dog"])
Bool = NDArray[np.bool_]


def area(rows: slice, columns: slice) -> Bool:
    mask = np.zeros((20, 30), dtype=bool)
    mask[rows, columns] = True
    return mask


LEFT, RIGHT = area(slice(2, 12), slice(2, 10)), area(slice(2, 12), slice(10, 18))
DOG, CROWD = area(slice(6, 10), slice(8, 13)), area(slice(16, 20), slice(0, 30))


def row(**change: Any) -> dict[str, Any]:
    mask = np.where(CROWD, 255, np.where(LEFT | RIGHT, 1, 0)).astype(np.uint8)
    mask[DOG] = 2
    objects = [Instance.of(1, LEFT, source_id="7"), Instance.of(1, RIGHT, score=0.25), Instance.of(2, DOG)]
    objects.append(Instance.of(1, CROWD, crowd=True))
    made = {
        "sample_id": "a" * 32,
        "image": {"bytes": photo(1, 20, 30, "PNG"), "path": "a.png"},
        "mask": {"bytes": encode_mask(mask, SPACE.palette), "path": None},
        "height": 20,
        "width": 30,
        "class_ids": [1, 2],
        "provenance": {"source": "coco"},
        "instances": [one.row() for one in objects],
        **change,
    }
    return SAMPLE.table([made]).to_pylist()[0]


def leave(name: str, root: Path, given: dict[str, Any], **options: Any) -> Path:
    """The files of an export of one sample."""
    exporter = create_exporter(name, splits={"train": 1.0}, **options)
    done = exporter.shard([ExportSample("a" * 32, "train", given)], SPACE, "shard-00000")
    ledger = type("Ledger", (), {"review": None})
    facts: Any = type("Facts", (), {"title": "t", "description": "d", "licences": [], "ledger": ledger})
    for path, data in {**done.files, **exporter.finish(done.records, SPACE, facts)}.items():
        put(root / path, data)
    return root


SOURCES_OF: dict[str, dict[str, Any]] = {
    "coco": {"kind": "coco", "annotations": "annotations/instances_train.json", "images": "images/train"},
    "hf": {"kind": "hf_parquet", "folder": "data"},
    "webdataset": {"kind": "webdataset"},
}


@pytest.mark.parametrize("name", SOURCES_OF)
def test_objects_come_back(name: str, tmp_path: Path) -> None:
    given = row()
    leave(name, tmp_path / "set", given)
    source = SOURCES.validate({"root": str(tmp_path / "set"), **SOURCES_OF[name]})
    (back,), _ = ingest(source, tmp_path / "run", SPACE)
    np.testing.assert_array_equal(mask_of(back), mask_of(given))
    before, after = read_instances(given, 20, 30), read_instances(back, 20, 30)
    assert before is not None
    assert after is not None
    for one, again in zip(before, after, strict=True):
        assert (one.class_id, one.crowd, one.score, one.box) == (again.class_id, again.crowd, again.score, again.box)
        np.testing.assert_array_equal(one.mask, again.mask)


def test_objects_that_no_longer_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    from maskmill.pipelines.core.ledger import build_ledger

    leave("hf", tmp_path / "set", row())
    source = SOURCES.validate({"root": str(tmp_path / "set"), **SOURCES_OF["hf"], "remap": {1: "dog", 2: "cow"}})
    (back,), _ = ingest(source, tmp_path / "run", SPACE)
    assert [one["class_id"] for one in back["instances"]] == [2, 2, 1, 2], "ids go through remap with their mask"
    leave("hf", tmp_path / "set", row(mask={"bytes": encode_mask(LEFT.astype(np.uint8)), "path": None}))
    source = SOURCES.validate({"root": str(tmp_path / "set"), **SOURCES_OF["hf"]})
    (back,), _ = ingest(source, tmp_path / "run2", SPACE)
    assert back["instances"] is None
    assert list(build_ledger(str(tmp_path / "run2")).notes.values()) == [1]


def test_yolo_writes_a_line_an_object(tmp_path: Path) -> None:
    text = (leave("yolo", tmp_path, row()) / f"labels/train/{'a' * 32}.txt").read_text()
    assert [line.split()[0] for line in text.splitlines()] == ["0", "0", "1"]
    plain = (leave("yolo", tmp_path / "b", row(instances=None)) / f"labels/train/{'a' * 32}.txt").read_text()
    assert [line.split()[0] for line in plain.splitlines()] == ["0", "1"]


def test_voc_numbers_objects(tmp_path: Path) -> None:
    folder = leave("voc", tmp_path, row()) / "VOCdevkit/VOC2012"
    numbers = np.asarray(Image.open(folder / f"SegmentationObject/{'a' * 32}.png"))
    wanted = np.select([DOG, LEFT, RIGHT, CROWD], [3, 1, 2, 255], 0)
    np.testing.assert_array_equal(numbers, wanted)
    folder = leave("voc", tmp_path / "b", row(instances=None)) / "VOCdevkit/VOC2012"
    assert not (folder / "SegmentationObject").exists()


def test_voc_has_room_for_many_objects() -> None:
    numbers = np.arange(300, dtype=np.int32).reshape(15, 20)
    mask = np.ones((15, 20), np.uint8)
    mask[0, 0] = 255
    found = np.asarray(Image.open(io.BytesIO(encode_objects(numbers, mask, SPACE))))
    assert found[0, 0] == 65535
    np.testing.assert_array_equal(found.ravel()[1:], numbers.ravel()[1:])


def test_what_is_seen_of_objects() -> None:
    given = row()
    mask, objects = mask_of(given), read_instances(given, 20, 30) or []
    np.testing.assert_array_equal(object_map(objects, mask) > 0, (mask > 0) & (mask < 255))
    assert [part.area for _, part in seen(objects, mask)] == [80 - 8, 80 - 12, 20]
    assert [part.area for _, part in whole(objects, mask)] == [80, 80, 20]
    mask[DOG] = 1  # the label map has the cows on top: whole objects would not draw it again
    assert [part.area for _, part in whole(objects, mask)] == [80, 80]


@pytest.mark.parametrize("regions", ["class", "part"])
def test_coco_can_leave_objects_aside(regions: str, tmp_path: Path) -> None:
    import json

    root = leave("coco", tmp_path, row(), regions=regions)
    notes = json.loads((root / "annotations/instances_train.json").read_text())["annotations"]
    assert [n["category_id"] for n in notes if not n["iscrowd"]] == [1, 2]


def test_boxes_without_an_outline_reach_a_box_labeler() -> None:
    boxed = Instance(2, (3.0, 4.0, 9.0, 8.0), None).row()
    sample = row(instances=[*row()["instances"], boxed])
    found = _item(sample, {}, own_tags=True)
    assert found.boxes.tolist() == [[1, 2, 2, 10, 12], [1, 10, 2, 18, 12], [2, 8, 6, 13, 10], [2, 3, 4, 9, 8]]
    assert not len(_item(row(), {}, own_tags=True).boxes), "outlines need no boxes"
    assert not len(_item(sample, {}, own_tags=False).boxes), "weak labels go first"


def test_colours_of_16_bits_leave_as_the_pipeline_saw_them() -> None:
    deep = np.random.default_rng(0).integers(0, 4_096, (8, 9, 3)).astype(np.uint16)
    _, data = cv2.imencode(".png", deep)
    written, suffix = portable_image(data.tobytes())
    assert suffix == ".png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(written))), decode_image(data.tobytes()))
