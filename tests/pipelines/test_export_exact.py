"""Small parts of exports by exact values: annotations, polygons, lists, counts, and files held against their marker."""

import io
import json
import os
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from maskmill.data_contracts import ContractError, Instance, LabelSpace, encode_image, encode_mask
from maskmill.pipelines.export import yolo
from maskmill.pipelines.export.coco import CocoExport, annotate, category_id, region_annotation
from maskmill.pipelines.export.facts import EXAMPLES, Summary
from maskmill.pipelines.export.markers import Marker, drop_stale, marker_fault, read_marker, replace, sweep_export
from maskmill.pipelines.export.sample import ExportSample, path_table, png_note, portable_image
from maskmill.pipelines.export.voc import VocExport, encode_objects, label_map
from maskmill.pipelines.export.yolo import YoloExport

SPACE = LabelSpace.model_validate(
    {"name": "x", "classes": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog", "source_id": 18}]}
)


def sample(pixels: np.ndarray | None, sample_id: str = "a", split: str = "train", **more: Any) -> ExportSample:
    origin: dict[str, Any] = dict.fromkeys(
        ("source", "source_path", "licence", "model_id", "model_revision", "prompt", "seed")
    )
    origin |= more.pop("provenance", {})
    shape = (4, 6) if pixels is None else pixels.shape
    row: dict[str, Any] = {
        "image": {"bytes": encode_image(np.zeros((*shape, 3), np.uint8)), "path": "p.png"},
        "mask": None if pixels is None else {"bytes": encode_mask(pixels)},
        "height": shape[0],
        "width": shape[1],
        "class_ids": [] if pixels is None else sorted({int(v) for v in np.unique(pixels)} & {1, 3}),
        "provenance": origin,
        "instances": None,
    }
    return ExportSample(sample_id, split, {**row, **more})


def drawing() -> np.ndarray:
    mask = np.zeros((4, 6), np.uint8)
    mask[0, 0], mask[1, 1], mask[3, 3:] = 1, 1, 3
    mask[:, 5] = 255
    return mask


# COCO


def test_regions_by_class_by_part_and_ignored_pixels() -> None:
    by_class = list(annotate(drawing(), SPACE, "class"))
    assert [(a["category_id"], a["iscrowd"], a["area"]) for a in by_class] == [
        (1, 0, 2),
        (18, 0, 2),
        (1, 1, 4),
        (18, 1, 4),
    ]
    assert by_class[1]["bbox"] == [3.0, 3.0, 2.0, 1.0]
    apart = drawing()
    apart[3, 0] = 1
    by_part = list(annotate(apart, SPACE, "part"))
    assert [(a["category_id"], a["area"]) for a in by_part if not a["iscrowd"]] == [(1, 2), (1, 1), (18, 2)]
    nothing = np.full((2, 2), 255, np.uint8)
    assert [(a["category_id"], a["iscrowd"]) for a in annotate(nothing, SPACE, "class")] == [(1, 1)]


def test_objects_with_their_scores_and_crowds() -> None:
    mask = drawing()
    crowd = np.zeros((4, 6), bool)
    crowd[:2, 4:] = True
    cat = Instance.of(1, mask == 1, score=0.5)
    found = list(annotate(mask, SPACE, "object", [cat, Instance.of(3, mask == 3), Instance.of(3, crowd, crowd=True)]))
    assert [(a["category_id"], a["iscrowd"], a["area"], a.get("score")) for a in found] == [
        (1, 0, 2, 0.5),
        (18, 0, 2, None),
        (18, 1, 2, None),  # the crowd's own ignored pixels
        (1, 1, 2, None),  # the rest of them
        (18, 1, 2, None),
    ]
    assert category_id(SPACE, 1) == 1
    assert CocoExport().number_of(3, SPACE) == 18
    assert CocoExport().number_of(9, SPACE) is None


def test_polygons_lie_where_their_part_does() -> None:
    region = np.zeros((6, 8), bool)
    region[2:4, 3:7] = True
    region[5, 0] = True
    found = region_annotation(region, 1, 0, polygons=True)
    assert sorted(map(sorted, (zip(p[::2], p[1::2], strict=True) for p in found["segmentation"]))) == [
        [(0, 5), (0, 6), (1, 5), (1, 6)],
        [(3, 2), (3, 4), (7, 2), (7, 4)],
    ]
    assert isinstance(region_annotation(region, 1, 0)["segmentation"]["counts"], str)


def test_records_of_an_image() -> None:
    (record,) = (
        CocoExport(regions="class").shard([sample(drawing(), provenance={"source_path": "s.jpg"})], SPACE, "0").records
    )
    assert record["image"] == {"file_name": "a.png", "height": 4, "width": 6, "sample_id": "a", "source_path": "s.jpg"}
    assert sample(drawing()).source_path == "p.png"
    assert sample(drawing(), image={"bytes": b"", "path": None}).source_path == ""


def test_images_and_annotations_are_numbered_from_one() -> None:
    exporter = CocoExport(regions="class", splits={"train": 0.5, "val": 0.5})
    records = exporter.shard(
        [sample(drawing(), i, split) for i, split in (("a", "train"), ("b", "val"))], SPACE, "0"
    ).records
    files = {Path(name).stem[10:]: json.loads(data) for name, data in exporter.finish(records, SPACE, None).items()}  # type: ignore[arg-type]
    assert [[image["id"] for image in files[split]["images"]] for split in ("train", "val")] == [[1], [2]]
    assert [note["id"] for note in files["val"]["annotations"]] == [1, 2, 3, 4]
    assert {note["image_id"] for note in files["val"]["annotations"]} == {2}
    assert files["train"]["categories"] == [
        {"id": 1, "name": "cat", "supercategory": ""},
        {"id": 18, "name": "dog", "supercategory": ""},
    ]
    assert isinstance(files["train"]["annotations"][0]["segmentation"], dict)


# YOLO


def test_lines_parts_and_what_is_left_out() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[2:6, 4:12] = 3
    mask[9, 17:] = 1
    mask[0, 0] = 255
    (record,) = YoloExport().shard([sample(mask)], SPACE, "0").records
    assert (record["objects"], record["ignored_pixels"], record["small_pixels"]) == (1, 1, 3)
    lines, small = YoloExport(min_pixels=3)._lines(sample(mask), SPACE)
    assert small == 0
    assert len(lines) == 2
    number, *numbers = lines[1].split()
    assert number == "1"
    corners = {(float(x), float(y)) for x, y in zip(numbers[::2], numbers[1::2], strict=True)}
    assert corners == {(x, y) for x in (0.2125, 0.5625) for y in (0.225, 0.525)}
    touching = np.zeros((4, 4), np.uint8)
    touching[:2, :2] = touching[2:, 2:] = 1
    assert len(YoloExport()._lines(sample(touching), SPACE)[0]) == 1  # corners touch
    assert YoloExport().number_of(3, SPACE) == 1
    assert YoloExport().number_of(2, SPACE) is None


def test_thinned_polygons_keep_their_bound() -> None:
    y, x = np.mgrid[:60, :60]
    disc = (y - 30) ** 2 + (x - 30) ** 2 <= 25**2
    exact = yolo.polygon(disc)
    assert yolo.iou(yolo.fill(exact, disc.shape), disc) == 1.0
    thin = yolo.polygon(disc, 8.0, 0.95)
    assert len(thin) < len(exact)
    reached = yolo.iou(yolo.fill(thin, disc.shape), disc)
    assert reached >= 0.95
    assert np.array_equal(yolo.polygon(disc, 8.0, reached), thin)  # at the bound it holds
    assert np.array_equal(yolo.polygon(disc, 0.25), exact)
    assert yolo.iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1.0
    assert yolo.iou(np.array([True, True, False]), np.array([True, False, True])) == 1 / 3


@pytest.mark.parametrize(
    ("splits", "train", "val"),
    [
        (["train", "val"], "train", "val"),
        (["train"], "train", "train"),
        (["test"], "test", "test"),
        ([], "train", "train"),
    ],
)
def test_both_keys_name_a_split_that_is_there(splits: list[str], train: str, val: str) -> None:
    exporter = YoloExport(splits={"train": 0.5, "val": 0.25, "test": 0.25})
    records = [{"sample_id": s, "split": s, "objects": 0, "ignored_pixels": 2, "small_pixels": 1} for s in splits]
    places = exporter._places(records)
    assert (places["train"], places["val"], places["test"]) == (train, val, "test")
    notes = "\n".join(exporter.notes(records))
    assert f"empty label file: {len(splits)}" in notes
    assert f"{2 * len(splits)} of them are background" in notes
    assert f"left out: {len(splits)} pixels" in notes
    assert "it is exact" in notes
    assert "it is exact" not in "\n".join(YoloExport(tolerance=1.0, splits=exporter.splits).notes(records))


# VOC


def test_colours_of_the_label_map() -> None:
    lines = label_map(SPACE).decode().split("\n")
    assert lines[2:] == ["background:0,0,0::", "cat:128,0,0::", "dog:128,128,0::", "ignored:224,224,192::", ""]
    assert lines[1].endswith("0,1,3,255")


@pytest.mark.parametrize(
    ("most", "kind", "ignored"), [(254, np.uint8, 255), (255, np.uint16, 65535), (70000, np.uint16, 65535)]
)
def test_objects_are_numbered_in_as_many_bits_as_they_need(most: int, kind: type, ignored: int) -> None:
    mask = np.array([[0, 1, 255]], np.uint8)
    data = encode_objects(np.array([[0, most, 7]], np.int32), mask, SPACE)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.dtype == kind
    assert pixels[0].tolist() == [0, min(most, 65534), ignored]


# samples


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_only_what_every_loader_reads_alike_goes_out_as_it_came() -> None:
    rgb, one = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    exif = Image.Exif()
    for pixels in (rgb, one):
        for kind, suffix in (("JPEG", ".jpg"), ("PNG", ".png")):
            data = encoded(pixels, kind)
            assert portable_image(data) == (data, suffix)
    exif[0x0112] = 6
    turned = encoded(rgb, "JPEG", exif=exif)
    odd = [
        turned,
        encoded(rgb, "WEBP"),
        encoded(one, "PNG", transparency=0),
        encoded(np.zeros((4, 6), np.uint16), "PNG"),
    ]
    for data in [*odd, encoded(np.zeros((4, 6, 4), np.uint8), "PNG")]:
        made, suffix = portable_image(data)
        assert suffix == ".png"
        assert made != data
    assert Image.open(io.BytesIO(portable_image(turned)[0])).size == (4, 6)
    exif[0x0112] = 1
    assert portable_image(encoded(rgb, "JPEG", exif=exif))[1] == ".jpg"


def test_a_sample_without_a_mask_says_so() -> None:
    for mask in (None, {"bytes": None}):
        with pytest.raises(ContractError, match="expected a mask, found none"):
            _ = sample(np.zeros((2, 2), np.uint8), mask=mask).mask


def test_tables_and_notes_of_records() -> None:
    records: list[dict[str, Any]] = [
        {"sample_id": "a", "split": "train", "file": "f", "source_path": "s", "png": True},
        {"sample_id": "b", "split": "val", "file": "g", "source_path": "t", "png": False},
    ]
    assert path_table(records) == b"sample_id,split,file,source_path\na,train,f,s\nb,val,g,t\n"
    assert "; 1 hold a PNG" in png_note(records)[0]
    assert png_note(records[1:]) == []


# counts


def test_counts_of_shards_add_up() -> None:
    generated = {"model_id": "m", "prompt": "p", "seed": 5, "licence": "CC0", "source": "made"}
    one = Summary.of([sample(drawing(), provenance=generated), sample(None, "b", "val")])
    assert (one.splits, one.rows, one.prompted, one.seeds) == ({"train": 1, "val": 1}, 2, 1, (5, 5))
    assert one.classes == {"train": {1: 1, 3: 1}}
    assert one.pixels == {0: 16, 1: 2, 3: 2, 255: 4}
    assert one.licences == {"CC0": 1, "not stated": 1}
    assert one.models == {"m@unknown": 1}
    other = Summary.of([sample(drawing(), provenance={**generated, "seed": 2, "prompt": f"q{i}"}) for i in range(9)])
    assert other.seeds == (2, 2)
    assert len(other.prompts) == EXAMPLES == 5
    whole = Summary.total([one, other, Summary()])
    assert (whole.rows, whole.prompted, whole.seeds) == (11, 10, (2, 5))
    assert whole.classes["train"] == {1: 10, 3: 10}
    assert whole.pixels[255] == 40
    assert whole.prompts == ["p", "q0", "q1", "q2", "q3"]
    assert Summary.total([]).seeds is None


# markers


def export(root: Path, name: str = "shard-00000", **files: bytes) -> Marker:
    replace(
        str(root), name, {key.replace("_", "/"): data for key, data in files.items()}, Marker(fingerprint="f", files=[])
    )
    marker = read_marker(str(root), name)
    assert marker is not None
    return marker


def test_files_are_held_against_their_marker(tmp_path: Path) -> None:
    marker = export(tmp_path, a_x=b"one", b=b"two")
    assert marker.files == ["a/x", "b"]
    assert marker_fault(str(tmp_path), "shard-00000", marker, thorough=True) is None
    (tmp_path / "b").write_bytes(b"TWO")
    later = os.stat(tmp_path / "b").st_mtime + 1000
    os.utime(tmp_path / ".maskmill/shard-00000.json", (later, later))
    assert marker_fault(str(tmp_path), "shard-00000", marker) is None  # of its size, and older than the marker
    assert marker_fault(str(tmp_path), "shard-00000", marker, thorough=True) == "damaged: b is not what was written"
    (tmp_path / "b").write_bytes(b"longer")
    assert marker_fault(str(tmp_path), "shard-00000", marker) == "damaged: b has 6 bytes, not 3"
    (tmp_path / "b").unlink()
    assert marker_fault(str(tmp_path), "shard-00000", marker) == "damaged: b is gone"


def test_what_is_no_longer_written_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    export(tmp_path, old=b"1", shared=b"2")
    export(tmp_path, "shard-00001", shared=b"2", mine=b"3")
    assert export(tmp_path, new=b"4").stale == ["old", "shared"]
    drop_stale(str(tmp_path), {"shard-00000", "shard-00001"})
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["mine", "new", "shared"]
    kept = read_marker(str(tmp_path), "shard-00000")
    assert kept is not None
    assert kept.stale == []
    drop_stale(str(tmp_path), {"shard-00000"})  # the run has no second shard any more
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["new"]
    assert read_marker(str(tmp_path), "shard-00001") is None


def test_leftovers_of_an_export_are_swept(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "a", tmp_path / "a/b"):
        place.mkdir(exist_ok=True)
        (place / ".maskmill-tmp-1").touch()
    assert sweep_export(str(tmp_path)) == 3
    assert sweep_export(str(tmp_path / "nowhere")) == 0
    assert sweep_export("memory://x") == 0


def test_a_tolerance_of_half_a_pixel_thins_and_one_of_a_quarter_does_not() -> None:
    y, x = np.mgrid[:30, :30]
    disc = (y - 14.3) ** 2 + (x - 15.1) ** 2 < 150
    exact = yolo.polygon(disc)
    assert yolo.polygon(disc, 0.25).tolist() == exact.tolist()
    assert len(yolo.polygon(disc, 0.5, 0.5)) < len(exact)
    assert len(yolo.polygon(disc, 1.0, 0.5)) < len(yolo.polygon(disc, 0.51, 0.5))


def test_train_and_val_alone_have_a_list_of_both() -> None:
    exporter = VocExport(splits={"train": 0.5, "val": 0.5})
    records = exporter.shard([sample(drawing(), i, split) for i, split in (("a", "train"), ("b", "val"))], SPACE, "0")
    files = exporter.finish(records.records, SPACE, None)  # type: ignore[arg-type]
    (both,) = (data for path, data in files.items() if path.endswith("/trainval.txt"))
    assert both == b"a\nb\n"


def test_files_of_a_store_are_looked_at_when_somebody_asks() -> None:
    root = "memory://marked"
    replace(root, "shard-00000", {f"f{i}": b"x" for i in range(20)}, Marker(fingerprint="f", files=[]))
    replace(root, "shard-00000", {"f0": b"y"}, Marker(fingerprint="g", files=[]))
    marker = read_marker(root, "shard-00000")
    assert marker is not None
    assert marker.stale == sorted(f"f{i}" for i in range(1, 20))
    fsspec.filesystem("memory").rm_file("/marked/f0")
    assert marker_fault(root, "shard-00000", marker) is None
    assert marker_fault(root, "shard-00000", marker, thorough=True) == "damaged: f0 is gone"
