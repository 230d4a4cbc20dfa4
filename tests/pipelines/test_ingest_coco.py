"""COCO source: what pycocotools wrote comes back, overlaps follow the stated rule, nonsense is told."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_sets import VOC, ingest, label_map, mask_of, photo, put, put_json, reasons
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maskmill.data_contracts import ContractError, encode_image, load_label_space
from maskmill.pipelines.ingest import ingest_units
from maskmill.pipelines.ingest.coco import CocoSource
from maskmill.pipelines.ingest.coco_masks import draw_segmentation

COCO = load_label_space("coco")
NAMES = {1: "person", 18: "dog", 90: "toothbrush", 200: "grass"}


def compressed(area: NDArray[np.bool_]) -> dict[str, Any]:
    packed = coco_mask.encode(np.asfortranarray(area.astype(np.uint8)))
    return {"size": list(packed["size"]), "counts": packed["counts"].decode()}


def plain(area: NDArray[np.bool_]) -> dict[str, Any]:
    """Uncompressed run lengths, written slowly."""
    runs, value = [0], False
    for pixel in area.T.ravel():
        if bool(pixel) != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    return {"size": list(area.shape), "counts": runs}


def note(category: int, segmentation: Any, number: int = 1, image: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": 0,
        **more,
    }


def make_coco(root: Path, notes: list[dict[str, Any]], images: int = 1, names: dict[int, str] | None = None) -> Path:
    listed = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 12, "width": 16} for i in range(1, images + 1)]
    for image in listed:
        put(root / f"images/{image['file_name']}", photo(int(image["id"])))
    categories = [{"id": i, "name": n} for i, n in (NAMES if names is None else names).items()]
    put_json(
        root / "instances.json", {"info": {"a": [1]}, "annotations": notes, "images": listed, "categories": categories}
    )
    return root


def source(root: Path, **options: object) -> CocoSource:
    return CocoSource.model_validate({"kind": "coco", "root": str(root), "annotations": "instances.json", **options})


def one_mask(root: Path, run: Path, notes: list[dict[str, Any]], **options: object) -> NDArray[np.uint8]:
    (row,), _ = ingest(source(make_coco(root, notes), **options), run, COCO)
    return mask_of(row)


areas = st.lists(st.booleans(), min_size=35, max_size=35).map(lambda v: np.array(v).reshape(5, 7))


@settings(max_examples=100, deadline=None)
@given(areas)
def test_run_lengths_are_read_as_pycocotools_wrote_them(area: NDArray[np.bool_]) -> None:
    for form in (compressed(area), plain(area)):
        assert np.array_equal(draw_segmentation(form, 5, 7, "x").draw(), area)


def test_run_lengths_of_a_large_mask() -> None:
    rng = np.random.default_rng(0)
    area = np.kron(rng.random((30, 40)) < 0.5, np.ones((16, 16))).astype(bool)
    assert np.array_equal(draw_segmentation(compressed(area), 480, 640, "x").draw(), area)
    area = np.zeros((3000, 2000), bool)
    area[2999, 1999] = True
    assert np.array_equal(draw_segmentation(compressed(area), 3000, 2000, "x").draw(), area)


def test_holes_and_parts_come_back(tmp_path: Path) -> None:
    ring = label_map() == 1
    ring[5:7, 6:9] = False
    ring[0:2, 12:15] = True
    found = one_mask(tmp_path / "set", tmp_path / "run", [note(18, compressed(ring))])
    assert np.array_equal(found == COCO.find("dog").id, ring)
    assert set(np.unique(found)) == {0, 17}


def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path: Path) -> None:
    parts = [[1.0, 1.0, 6.5, 1.0, 6.5, 7.5, 1.0, 7.5], [9, 3, 15, 3, 12, 10]]
    wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 12, 16)))
    found = one_mask(tmp_path / "set", tmp_path / "run", [note(1, parts)])
    assert np.array_equal(found, wanted)
    assert found.any()


def test_smaller_lies_on_larger_whatever_the_order(tmp_path: Path) -> None:
    large, small = np.zeros((2, 12, 16), bool)
    large[2:10, 2:14] = True
    small[4:6, 4:6] = True
    wanted = np.where(small, 1, np.where(large, 17, 0))
    for turn, notes in enumerate(
        ([note(18, plain(large), 1), note(1, plain(small), 2)], [note(1, plain(small), 1), note(18, plain(large), 2)])
    ):
        assert np.array_equal(one_mask(tmp_path / f"s{turn}", tmp_path / f"r{turn}", notes), wanted)


def test_equal_areas_go_by_annotation_id(tmp_path: Path) -> None:
    area = plain(label_map() == 1)
    for turn, notes in enumerate(([note(18, area, 7), note(1, area, 9)], [note(1, area, 9), note(18, area, 7)])):
        assert set(np.unique(one_mask(tmp_path / f"s{turn}", tmp_path / f"r{turn}", notes))) == {0, 1}


def test_crowds_are_ignored_below_everything(tmp_path: Path) -> None:
    crowd, person = np.zeros((2, 12, 16), bool)
    crowd[2:6, 2:6] = True
    person[0:12, 4:16] = True
    notes = [note(1, plain(person), 1), note(1, plain(crowd), 2, iscrowd=1)]
    found = one_mask(tmp_path / "set", tmp_path / "run", notes)
    assert np.array_equal(found, np.where(person, 1, np.where(crowd, 255, 0)))


def test_cocos_numbers_are_pinned_to_ours(tmp_path: Path) -> None:
    area = plain(label_map() == 1)
    for turn, names in enumerate((NAMES, {})):  # by name, and by number where the file has no names
        root = make_coco(tmp_path / f"s{turn}", [note(90, area)], names=names)
        (row,), _ = ingest(source(root), tmp_path / f"r{turn}", COCO)
        assert row["class_ids"] == [80]


def test_categories_outside_the_space(tmp_path: Path) -> None:
    area = label_map() == 1
    notes = [note(18, plain(area)), note(200, plain(~area), 2)]
    root = make_coco(tmp_path / "set", notes)
    _, (lost,) = ingest(source(root), tmp_path / "r0", COCO)
    assert lost["reason"] == "unknown_class_name"
    assert "'grass'" in lost["detail"]
    for turn, (options, rest) in enumerate(
        [
            ({"other_categories": "ignore"}, 255),
            ({"other_categories": "background"}, 0),
            ({"categories": {"grass": "cow"}}, 20),
        ],
        1,
    ):
        (row,), _ = ingest(source(root, **options), tmp_path / f"r{turn}", COCO)
        assert np.array_equal(mask_of(row), np.where(area, 17, rest))
    (row,), _ = ingest(source(root, other_categories="ignore"), tmp_path / "voc", VOC)
    assert row["class_ids"] == [VOC.find("dog").id]


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        7,
        "x",
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 1e12]],
        [["a"] * 6],
        [1, 2, 3, 4, 5],
        {"size": [12, 16]},
        {"size": [16, 12], "counts": [192]},
        {"size": [12, 16], "counts": [191]},
        {"size": [12, 16], "counts": [-1, 193]},
        {"size": [12, 16], "counts": [96.5, 95.5]},
        {"size": [12, 16], "counts": "\x00"},
        {"size": [12, 16], "counts": "oooooooooooooooooooooo"},
        {"size": [12, 16], "counts": "P"},
    ],
)
def test_segmentations_that_mean_nothing(segmentation: Any) -> None:
    with pytest.raises(ContractError, match="bad_annotation"):
        draw_segmentation(segmentation, 12, 16, "x")


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
def test_any_text_is_a_mask_or_a_contract_error(text: str) -> None:
    with suppress(ContractError):
        assert draw_segmentation({"size": [4, 4], "counts": text}, 4, 4, "x").draw().shape == (4, 4)


def test_faults_of_a_file_are_rows(tmp_path: Path) -> None:
    area = plain(label_map() == 1)
    notes = [note(1, area, i, i) for i in range(1, 7)]
    notes += [note(1, [[1, 2]], 20, 2), note(77, area, 21, 3), note(1, area, 22, 99), note(1, area, 23, 99)]
    root = make_coco(tmp_path / "set", notes, images=8)
    data = json.loads((root / "instances.json").read_text())
    data["images"][3]["file_name"] = "../images/000000000004.jpg"
    data["images"][4]["height"] = 10**9
    data["images"][5]["width"] = "wide"
    data["images"].append({"id": 30})
    data["images"].append({"id": 31, "file_name": "000000000001.jpg", "height": 12, "width": 16})
    put_json(root / "instances.json", data)
    (root / "images/000000000008.jpg").unlink()
    samples, rejects = ingest(source(root), tmp_path / "run", COCO, shard_size=5)
    assert [row["provenance"]["source_path"] for row in samples] == ["images/000000000001.jpg"]
    assert reasons(rejects) == {
        "images/000000000001.jpg#2": "duplicate_id",
        "images/000000000002.jpg": "bad_annotation",
        "images/000000000003.jpg": "unknown_class_name",
        "images/../images/000000000004.jpg": "unsafe_path",
        "images/000000000005.jpg": "image_too_large",
        "images/000000000006.jpg": "bad_annotation",
        "images/000000000007.jpg": "empty_foreground",
        "images/000000000008.jpg": "missing_image",
        "instances.json#image=30": "bad_annotation",
        "instances.json#image=99": "missing_image",
    }


def test_an_image_of_another_size_than_the_json_says(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "set", [note(1, plain(label_map() == 1))])
    put(root / "images/000000000001.jpg", photo(1, 24, 32))
    _, (lost,) = ingest(source(root), tmp_path / "run", COCO)
    assert lost["reason"] == "size_mismatch"


def test_changed_annotations_redo_their_shard_alone(tmp_path: Path) -> None:
    from maskmill.pipelines.core.stage import map_units
    from maskmill.pipelines.ingest import ingest_stage

    notes = [note(1, plain(label_map() == 1), i, i) for i in (1, 2, 3)]
    root = make_coco(tmp_path / "set", notes, images=3)
    ingest(source(root), tmp_path / "run", COCO, shard_size=1)
    notes[1] = note(18, plain(label_map() == 1), 2, 2)
    make_coco(tmp_path / "other", notes, images=3)
    put(root / "instances.json", (tmp_path / "other/instances.json").read_bytes())
    units = ingest_units(source(root), str(tmp_path / "run"), 1)
    assert [r.status for r in map_units(ingest_stage(source(root), COCO), units)] == ["skipped", "written", "skipped"]


def test_broken_json_is_an_error_of_the_run(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "set", [])
    put(root / "instances.json", '{"images": [{"id": 1,')
    with pytest.raises(ValueError, match="JSON"):
        ingest_units(source(root), str(tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match="annotations/x"):
        ingest_units(source(root, annotations="annotations/x.json"), str(tmp_path / "run"))


def make_panoptic(root: Path, segments: NDArray[np.int64], infos: list[dict[str, Any]], **more: Any) -> Path:
    colours = np.stack([segments & 255, segments >> 8 & 255, segments >> 16], axis=-1).astype(np.uint8)
    put(root / "panoptic/000000000001.png", encode_image(colours))
    row = {"image_id": 1, "file_name": "000000000001.png", "segments_info": infos, **more}
    return make_coco(root, [row])


def test_panoptic(tmp_path: Path) -> None:
    segments = np.zeros((12, 16), np.int64)
    segments[2:10] = 70_000
    segments[3:5, 3:9] = 513
    segments[6:8, 3:9] = 5
    segments[11] = 9
    infos = [
        {"id": 70_000, "category_id": 200},
        {"id": 513, "category_id": 18},
        {"id": 5, "category_id": 1, "iscrowd": 1},
        {"id": 9, "category_id": 1, "iscrowd": 0},
    ]
    root = make_panoptic(tmp_path / "set", segments, infos)
    (row,), _ = ingest(source(root, panoptic="panoptic", other_categories="background"), tmp_path / "run", COCO)
    wanted = np.select([segments == 70_000, segments == 513, segments == 9], [0, 17, 1], 255)
    assert np.array_equal(mask_of(row), wanted)
    _, (lost,) = ingest(source(root, panoptic="panoptic"), tmp_path / "run2", COCO)
    assert "'grass'" in lost["detail"]


def test_panoptic_faults(tmp_path: Path) -> None:
    segments = np.full((12, 16), 5)
    cases: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
        ([], {}, "bad_annotation"),
        ([{"id": 5, "category_id": 1}], {"file_name": "gone.png"}, "missing_mask"),
        ([{"id": 5, "category_id": 1}], {"file_name": "../x.png"}, "unsafe_path"),
        ([{"id": 5, "category_id": 1}], {"file_name": None}, "bad_annotation"),
        ([{"id": 5, "category_id": 1}], {"segments_info": "none"}, "bad_annotation"),
    ]
    for turn, (infos, more, reason) in enumerate(cases):
        root = make_panoptic(tmp_path / f"s{turn}", segments, infos, **more)
        _, (lost,) = ingest(source(root, panoptic="panoptic"), tmp_path / f"r{turn}", COCO)
        assert lost["reason"] == reason
    root = make_coco(tmp_path / "none", [])
    (root / "panoptic").mkdir()
    _, (lost,) = ingest(source(root, panoptic="panoptic"), tmp_path / "rnone", COCO)
    assert lost["reason"] == "missing_mask"
