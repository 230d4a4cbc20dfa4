"""COCO files as tools write them: what can mean one thing is read, the rest is one sample's reason, never the run's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import CATEGORIES, DOG, RING, Mask, cat, coco, compressed, image, note, runs
from ingest_sets import photo, put, put_json

from maskmill.pipelines.core.ledger import build_ledger
from maskmill.pipelines.ingest.coco import CocoSource

BOXED = {"id": 2, "image_id": 1, "category_id": 2, "bbox": [18, 3, 10, 12], "area": 120}


def hole() -> Mask:
    mask = cat()
    mask[6:8, 6:10] = 0
    return mask


def box_of_dog() -> Mask:
    mask = np.zeros((20, 30), np.uint8)
    mask[4:10, 20:25] = 1
    return mask


def as_text_of_bytes(code: dict[str, Any]) -> dict[str, Any]:
    return {**code, "counts": str(code["counts"].encode())}


READ: dict[str, tuple[list[Any], Mask]] = {
    "every object marked iscrowd": ([note(runs(cat()), iscrowd=1)], cat()),
    "every polygon marked iscrowd": ([note(iscrowd=1)], cat()),
    "ids as floats": ([note(category=1.0) | {"image_id": 1.0}], cat()),
    "ids as text": ([note(category="1") | {"image_id": "1"}], cat()),
    "a flat polygon": ([note(RING)], cat()),
    "points as pairs": ([note([[3, 4], [15, 4], [15, 10], [3, 10]])], cat()),
    "polygons of pairs": ([note([[[3, 4], [15, 4], [15, 10], [3, 10]]])], cat()),
    "points as objects": ([note([{"x": x, "y": y} for x, y in ((3, 4), (15, 4), (15, 10), (3, 10))])], cat()),
    "a list of run lengths": ([note([runs(cat())])], cat()),
    "run lengths and a polygon in one list": ([note([runs(cat()), DOG])], np.maximum(cat(), box_of_dog())),
    "sizes of run lengths as floats": ([note(runs(cat()) | {"size": [20.0, 30.0]})], cat()),
    "counts as floats": ([note({"size": [20, 30], "counts": [float(n) for n in runs(cat())["counts"]]})], cat()),
    "counts as the text of bytes": (
        [note(compressed(hole()) | {"counts": str(compressed(hole())["counts"].encode())})],
        hole(),
    ),
    "a segmentation as JSON text": ([note(json.dumps([RING]))], cat()),
    "iscrowd as the text 0": ([note(iscrowd="0")], cat()),
    "iscrowd as false": ([note(iscrowd=False)], cat()),
    "iscrowd as 0.0": ([note(iscrowd=0.0)], cat()),
    "iscrowd as null": ([note(iscrowd=None)], cat()),
    "an annotation twice, word for word": ([note(), note()], cat()),
    "an annotation without an id": ([{k: v for k, v in note().items() if k != "id"}], cat()),
    "a mark among run lengths that have none": (
        [note(runs(np.roll(cat(), 12, 1)), 2, iscrowd=1), note(runs(cat()), 1)],
        np.where(np.roll(cat(), 12, 1) > 0, np.where(cat() > 0, 1, 255), cat()).astype(np.uint8),
    ),
    "COCO's own crowds": (
        [note(runs(np.roll(cat(), 15, 1)), 900_100_000_001, iscrowd=1), note()],
        np.where(np.roll(cat(), 15, 1) > 0, 255, cat()).astype(np.uint8),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_can_mean_one_thing_is_read(name: str, tmp_path: Path) -> None:
    notes, wanted = READ[name]
    masks, rejects, _ = coco(tmp_path, notes)
    assert not rejects
    np.testing.assert_array_equal(masks["images/a.png"], wanted)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"width": None, "height": None},
        {"width": 0, "height": 0},
        {"width": -1, "height": -1},
        {"width": "30"},
        {"width": 30.0, "height": 20.0},
        {"width": "30", "height": "20"},
        {"width": "", "height": ""},
    ],
)
def test_sizes_come_from_the_file_where_the_json_has_none(sizes: dict[str, Any], tmp_path: Path) -> None:
    plain = {"id": 1, "file_name": "a.png", **sizes}
    masks, rejects, _ = coco(tmp_path, [note()], [plain])
    assert not rejects
    np.testing.assert_array_equal(masks["images/a.png"], cat())


@pytest.mark.parametrize("width", ["wide", 30.5, [30], True, -7])
def test_sizes_that_are_none_are_told(width: Any, tmp_path: Path) -> None:
    _, rejects, _ = coco(tmp_path, [note()], [image(width=width)])
    assert "expected an image with height and width" in rejects["images/a.png"]


def test_width_and_height_the_wrong_way_round_are_told(tmp_path: Path) -> None:
    _, rejects, _ = coco(tmp_path, [note()], [image(width=20, height=30)])
    assert "width 20 and height 30 for a photo of 30x20" in rejects["images/a.png"]
    assert "swap them" in rejects["images/a.png"]


REFUSED: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "a box where a polygon should be": ([note([[20, 12, 5, 4]], 77)], ("annotation 77", "four numbers", "boxes")),
    "an odd count": ([note([RING[:-1]], 5)], ("annotation 5", "7 numbers")),
    "one bad part of two": ([note([RING, [1, 2]], 6)], ("annotation 6, part 1", "2 numbers")),
    "width before height": ([note(runs(cat()) | {"size": [30, 20]}, 9)], ("annotation 9", "width before height")),
    "shares of the photo's sides": (
        [note([[0.1, 0.2, 0.5, 0.2, 0.5, 0.5]], 8)],
        ("annotation 8", "coordinates in pixels", "multiply x by the photo's width"),
    ),
    "a box in shares": ([note([], 8, bbox=[0.1, 0.2, 0.5, 0.5])], ("annotation 8", "coordinates in pixels")),
    "numbers as text": ([note([["a"] * 6], 8)], ("annotation 8", "polygons of three or more")),
    "no outline and no box": ([note([], 4)], ("annotation 4", "an outline (or a box)")),
    "a box of no size": ([note([], 4, bbox=[3, 4, 0, 0])], ("annotation 4", "bbox [3, 4, 0, 0]")),
    "iscrowd as a word": ([note(number=3, iscrowd="maybe")], ("annotation 3", "iscrowd 'maybe'", "as 0 or 1")),
    "iscrowd as a list": ([note(number=3, iscrowd=[1])], ("annotation 3", "iscrowd [1]")),
    "a category that is not listed": ([note(number=3, category=9)], ("annotation 3", "category_id 9")),
    "a category of null": ([note(number=3, category=None)], ("annotation 3", "category_id None")),
    "a category of a list": ([note(number=3, category=[1])], ("annotation 3", "category_id [1]")),
    "a segmentation of a number": ([note(7, 3)], ("annotation 3", "polygons or run lengths")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_names_annotation_and_finding(name: str, tmp_path: Path) -> None:
    notes, words = REFUSED[name]
    good = note(number=50) | {"image_id": 2}
    masks, rejects, _ = coco(tmp_path, [*notes, good], [image(), image(2, "b.png")])
    assert list(masks) == ["images/b.png"], "the run goes on"
    for word in words:
        assert word in rejects["images/a.png"]
    assert "Fix: " in rejects["images/a.png"]


ODD: dict[str, tuple[list[Any], str]] = {
    "null": ([None, note()], "a.json#annotations[0]"),
    "a number": ([note(), 7], "a.json#annotations[1]"),
    "no image id": ([note(), {"id": 2, "category_id": 1}], "a.json#annotations[1]"),
    "an image id of a list": ([note(), note(number=2) | {"image_id": [1]}], "a.json#annotations[1]"),
    "an image that is not listed": ([note(), note(number=2) | {"image_id": 9}], "a.json#image=9"),
}


@pytest.mark.parametrize("name", ODD)
def test_annotations_of_no_image_are_recorded_and_the_rest_goes_on(name: str, tmp_path: Path) -> None:
    notes, place = ODD[name]
    masks, rejects, _ = coco(tmp_path, notes)
    np.testing.assert_array_equal(masks["images/a.png"], cat())
    assert list(rejects) == [place]


def test_images_and_categories_of_other_types_are_recorded(tmp_path: Path) -> None:
    masks, rejects, _ = coco(
        tmp_path, [note()], [image(), None, {"file_name": "b.png"}], [*CATEGORIES, None, {"id": []}]
    )
    assert list(masks) == ["images/a.png"]
    assert set(rejects) == {"a.json#images[1]", "a.json#images[2]", "a.json#categories[2]"}


# --- crowds


def supervision(root: Path, **options: Any) -> tuple[dict[str, Mask], dict[str, str], list[dict[str, Any]]]:
    """Objects with holes as run lengths that are marked, others as polygons that are not."""
    notes = [note(runs(hole()), 1, iscrowd=1), note([DOG], 2, 2, iscrowd=0)]
    return coco(root, notes, options=options)


def test_marks_that_may_mean_two_things_are_asked_about_and_both_answers_work(tmp_path: Path) -> None:
    masks, rejects, _ = supervision(tmp_path)
    assert not masks
    for word in ("annotation 1", "iscrowd 1", "crowds: objects", "crowds: ignore"):
        assert word in rejects["images/a.png"]
    wanted = hole()
    wanted[4:10, 20:25] = 2
    masks, _, _ = supervision(tmp_path, crowds="objects")
    np.testing.assert_array_equal(masks["images/a.png"], wanted)
    masks, _, _ = supervision(tmp_path, crowds="ignore")
    np.testing.assert_array_equal(masks["images/a.png"], np.where(hole() > 0, 255, wanted))


def test_samples_without_a_mark_are_read_in_such_a_file(tmp_path: Path) -> None:
    notes = [note(runs(hole()), 1, iscrowd=1), note([DOG], 2, 2), note([DOG], 3, 2) | {"image_id": 2}]
    masks, rejects, _ = coco(tmp_path, notes, [image(), image(2, "b.png")])
    assert list(masks) == ["images/b.png"]
    assert list(rejects) == ["images/a.png"]


@pytest.mark.parametrize(("crowds", "what"), [("objects", "iscrowd as objects"), ("ignore", "iscrowd as ignore")])
def test_what_marks_became_is_counted(crowds: str, what: str, tmp_path: Path) -> None:
    supervision(tmp_path, crowds=crowds)
    ledger = build_ledger(str(tmp_path / "run0"))
    assert ledger.notes == {what: 1}
    assert f"1 × {what}" in ledger.markdown()
    assert f"1 × {what}" in str(ledger.rich_table().caption)


def test_crowds_can_be_refused(tmp_path: Path) -> None:
    _, rejects, _ = coco(tmp_path, [note(runs(cat()), iscrowd=1)], options={"crowds": "reject"})
    assert "annotation 1" in rejects["images/a.png"]


# --- boxes


@pytest.mark.parametrize("segmentation", [[], None, [[]], {}, "", "absent"])
def test_an_object_with_a_box_alone_is_no_background(segmentation: Any, tmp_path: Path) -> None:
    boxed = BOXED if segmentation == "absent" else {**BOXED, "segmentation": segmentation}
    masks, rejects, _ = coco(tmp_path, [note(), boxed])
    assert not masks
    for word in ("annotation 2", "source.boxes: ignore", "fill", "label"):
        assert word in rejects["images/a.png"]


@pytest.mark.parametrize(("boxes", "value"), [("ignore", 255), ("fill", 2), ("label", 255)])
def test_what_boxes_become(boxes: str, value: int, tmp_path: Path) -> None:
    masks, rejects, (row,) = coco(tmp_path, [note(), BOXED], options={"boxes": boxes})
    assert not rejects
    wanted = cat()
    wanted[3:15, 18:28] = value
    np.testing.assert_array_equal(masks["images/a.png"], wanted)
    assert build_ledger(str(tmp_path / "run0")).notes == {f"boxes without an outline, {boxes}": 1}
    kept = [one["box"] for one in row["instances"] if one["rle"] is None]
    assert kept == ([{"x0": 18, "y0": 3, "x1": 28, "y1": 15}] if boxes == "label" else [])


def test_objects_lie_on_ignored_boxes(tmp_path: Path) -> None:
    boxed = {**BOXED, "bbox": [0, 0, 30, 20]}
    masks, _, _ = coco(tmp_path, [note(), boxed], options={"boxes": "ignore"})
    np.testing.assert_array_equal(masks["images/a.png"], np.where(cat() > 0, 1, 255))


# --- ids given twice


def test_two_photos_with_one_id_are_both_turned_away(tmp_path: Path) -> None:
    notes = [note(), note([DOG], 2, 2)]
    masks, rejects, _ = coco(tmp_path, notes, [image(), image(1, "b.png")])
    assert not masks
    assert set(rejects) == {"images/a.png", "images/b.png"}
    assert "one id for a.png and b.png" in rejects["images/b.png"]


def test_a_photo_listed_twice_word_for_word_is_one(tmp_path: Path) -> None:
    masks, rejects, _ = coco(tmp_path, [note()], [image(), image()])
    assert not rejects
    np.testing.assert_array_equal(masks["images/a.png"], cat())


def test_a_photo_under_two_ids_with_objects_under_both_is_turned_away(tmp_path: Path) -> None:
    notes = [note(), note([DOG], 2, 2) | {"image_id": 2}]
    masks, rejects, _ = coco(tmp_path, notes, [image(), image(2)])
    assert not masks
    assert "ids 1, 2" in rejects["images/a.png"]


def test_two_categories_with_one_id_are_told_where_they_are_used(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "dog"}]
    notes = [note(), note([DOG], 2, 2) | {"image_id": 2}]
    masks, rejects, _ = coco(tmp_path, notes, [image(), image(2, "b.png")], categories)
    assert list(masks) == ["images/b.png"]
    assert "category 1, which is 'cat' and 'dog'" in rejects["images/a.png"]
    masks, rejects, _ = coco(tmp_path, [note()], None, [*CATEGORIES, CATEGORIES[0]])
    assert not rejects, "twice the same name is no clash"


# --- names and files


@pytest.mark.parametrize("name", ["images/a.png", ".\\a.png", "./a.png", "{root}/images/a.png"])
def test_file_names_from_other_places(name: str, tmp_path: Path) -> None:
    name = name.replace("{root}", str(tmp_path / "set"))
    masks, _, _ = coco(tmp_path, [note()], [image(name=name)], options={"images": "images"})
    assert list(masks) == ["images/a.png"]


def test_files_that_are_no_annotation_file_are_named(tmp_path: Path) -> None:
    put(tmp_path / "set/images/a.png", photo(1, 20, 30, "PNG"))
    source = CocoSource(root=str(tmp_path / "set"), annotations="a.json")
    put(tmp_path / "set/a.json", '{"categories": [{"id": 1, "name": "狗狗猫"}]}'.encode("gbk"))
    with pytest.raises(ValueError, match=r"a\.json.*UTF-8"):
        list(source.entries())
    put_json(tmp_path / "set/a.json", [note()])
    with pytest.raises(ValueError, match=r"a\.json.*list of results"):
        list(source.entries())
