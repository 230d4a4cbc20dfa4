"""Each format, read back by the consumer's own loader, gives the masks and images that went in."""

import glob
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from maskmill.data_contracts import IGNORE, Uint8Array, decode_image, decode_mask, load_label_space
from maskmill.pipelines.export import create_exporter, export_root, run_export
from maskmill.pipelines.export.card import _license_name
from maskmill.pipelines.export.coco import annotate
from maskmill.pipelines.export.yolo import fill, iou, polygon
from tests.factories import FakeRun, draw_mask, make_run


def truth(run: FakeRun, sample_id: str) -> tuple[Uint8Array, Uint8Array]:
    """Image and mask as they were ingested."""
    row: dict[str, Any] = run.rows[sample_id]
    return decode_image(row["image"]["bytes"]), decode_mask(row["mask"]["bytes"])


def exported(run: FakeRun, name: str, **options: object) -> str:
    exporter = create_exporter(name, **{"splits": {"train": 0.6, "val": 0.4}, **options})
    run_export(run.path, exporter, run.space)
    return export_root(run.path, exporter)


# VOC


def test_voc_round_trip(run: FakeRun) -> None:
    folder = Path(exported(run, "voc")) / "VOCdevkit/VOC2012"
    lists = {s: (folder / f"ImageSets/Segmentation/{s}.txt").read_text().split() for s in ("train", "val", "trainval")}
    assert set(lists["train"]) | set(lists["val"]) == run.kept == set(lists["trainval"])
    assert lists["train"] == sorted(lists["train"])
    for stem in lists["trainval"]:
        image, mask = truth(run, stem)
        png = Image.open(folder / f"SegmentationClass/{stem}.png")
        assert png.mode == "P"
        assert png.getpalette()[3:6] == [128, 0, 0]
        np.testing.assert_array_equal(np.asarray(png), mask)
        (file,) = (folder / "JPEGImages").glob(f"{stem}.*")
        row: dict[str, Any] = run.rows[stem]
        assert file.read_bytes() == row["image"]["bytes"]
        np.testing.assert_array_equal(np.asarray(Image.open(file).convert("RGB")), image)


def test_voc_opens_in_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    run = make_run(tmp_path / "run", shards=2, rows=2)  # no third sample of a shard: all JPEG
    run.keep(set(run.rows))
    root = exported(run, "voc", splits={"train": 1.0})
    dataset = VOCSegmentation(root, year="2012", image_set="train")
    assert len(dataset) == len(run.kept) > 0
    for (image, mask), path in zip(dataset, dataset.images, strict=True):
        expected_image, expected_mask = truth(run, Path(path).stem)
        np.testing.assert_array_equal(np.asarray(mask), expected_mask)
        np.testing.assert_array_equal(np.asarray(image), expected_image)


# COCO


def coco_mask(coco: Any, image_id: int, category_to_class: dict[int, int]) -> Uint8Array:
    info = coco.loadImgs(image_id)[0]
    mask = np.zeros((info["height"], info["width"]), np.uint8)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image_id)):
        value = IGNORE if annotation["iscrowd"] else category_to_class[annotation["category_id"]]
        mask[coco.annToMask(annotation) == 1] = value
    return mask


@pytest.mark.parametrize("regions", ["class", "part"])
@pytest.mark.parametrize("space_name", ["voc", "coco"])
def test_coco_round_trip(tmp_path: Path, regions: str, space_name: str) -> None:
    from pycocotools.coco import COCO

    space = load_label_space(space_name)
    run = make_run(tmp_path / "run", shards=2, rows=5, space=space)
    root = exported(run, "coco", regions=regions)
    to_class = {space.by_id[i].source_id or i: i for i in space.ids}
    seen: set[str] = set()
    for split in ("train", "val"):
        coco = COCO(f"{root}/annotations/instances_{split}.json")
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == [space.by_id[i].name for i in space.ids]
        for image_id in coco.getImgIds():
            info = coco.loadImgs(image_id)[0]
            seen.add(info["sample_id"])
            image, mask = truth(run, info["sample_id"])
            np.testing.assert_array_equal(coco_mask(coco, image_id, to_class), mask)
            loaded = Image.open(f"{root}/images/{split}/{info['file_name']}").convert("RGB")
            np.testing.assert_array_equal(np.asarray(loaded), image)
    assert seen == run.kept


def test_coco_areas_and_boxes_are_those_of_the_region() -> None:
    space = load_label_space("voc")
    mask = np.zeros((20, 30), np.uint8)
    mask[2:12, 3:13] = 5
    mask[5:8, 6:9] = 0  # a hole
    mask[15:18, 20:25] = 5  # a second part
    mask[0, :] = IGNORE
    whole, crowd = annotate(mask, space, "class")
    assert (whole["area"], whole["bbox"], whole["iscrowd"]) == (100 - 9 + 15, [3.0, 2.0, 22.0, 16.0], 0)
    assert (crowd["area"], crowd["category_id"], crowd["iscrowd"]) == (30, 5, 1)
    first, second, _ = annotate(mask, space, "part")
    assert (first["area"], first["bbox"]) == (91, [3.0, 2.0, 10.0, 10.0])
    assert (second["area"], second["bbox"]) == (15, [20.0, 15.0, 5.0, 3.0])


def test_coco_evaluation_of_the_truth_against_itself_is_perfect(run: FakeRun) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    root = exported(run, "coco", regions="part")
    coco = COCO(f"{root}/annotations/instances_train.json")
    found = [a for a in coco.loadAnns(coco.getAnnIds()) if not a["iscrowd"]]
    keys = ("image_id", "category_id", "segmentation")
    results = coco.loadRes([{**{k: a[k] for k in keys}, "score": 1.0} for a in found])
    evaluation = COCOeval(coco, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


# YOLO


def read_yolo(path: Path, shape: tuple[int, int], class_ids: tuple[int, ...]) -> Uint8Array:
    """Rasterise a label file as YOLO trainers do: scale up, cut to whole pixels, fill."""
    mask = np.zeros(shape, np.uint8)
    for line in path.read_text().splitlines():
        number, *values = line.split()
        points = np.array(values, np.float64).reshape(-1, 2) * (shape[1], shape[0])
        mask[fill(points.astype(np.int32), shape)] = class_ids[int(number)]
    return mask


def test_yolo_round_trip_is_exact_without_tolerance(run: FakeRun) -> None:
    root = Path(exported(run, "yolo", min_pixels=1))
    data = yaml.safe_load((root / "data.yaml").read_text())
    assert list(data["names"].values()) == [run.space.by_id[i].name for i in run.space.ids]
    seen = set()
    for split in ("train", "val"):
        for path in sorted((root / "labels" / split).glob("*.txt")):
            seen.add(path.stem)
            (image,) = (root / data[split]).glob(f"{path.stem}.*")
            mask = truth(run, path.stem)[1]
            expected = np.where(mask == IGNORE, 0, mask)
            found = read_yolo(path, Image.open(image).size[::-1], run.space.ids)
            np.testing.assert_array_equal(found, expected)
    assert seen == run.kept


def parts(rng: np.random.Generator, count: int) -> list[Any]:
    from scipy import ndimage

    found = []
    for number in range(count):
        size = (int(rng.integers(3, 90)), int(rng.integers(3, 90)))
        blur = ndimage.gaussian_filter(rng.normal(size=size), rng.uniform(0, 4)) > -0.01
        mask = rng.random(size) < 0.6 if number % 5 == 0 else blur
        labelled, _ = ndimage.label(mask, np.ones((3, 3)))
        found += [labelled[box] == i for i, box in enumerate(ndimage.find_objects(labelled), start=1)]
    return found


def test_yolo_polygons_are_exact_for_any_part() -> None:
    for part in parts(np.random.default_rng(0), 60):
        ring = polygon(part)
        assert len(ring) >= 3
        np.testing.assert_array_equal(fill(ring, part.shape), part)


@pytest.mark.parametrize("min_iou", [0.95, 0.99])
def test_yolo_thinning_keeps_the_stated_bound_and_saves_vertices(min_iou: float) -> None:
    exact = thin = 0
    for part in parts(np.random.default_rng(1), 60):
        ring = polygon(part, tolerance=2.0, min_iou=min_iou)
        assert iou(fill(ring, part.shape), part) >= min_iou
        exact, thin = exact + len(polygon(part)), thin + len(ring)
    assert thin < exact


def test_yolo_leaves_out_specks_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", shards=2, rows=6)
    card = Path(exported(run, "yolo", min_pixels=50), "README.md").read_text()
    assert "fewer than 50 pixels were left out" in card


# WebDataset


def test_webdataset_round_trip(run: FakeRun) -> None:
    import webdataset as wds

    root = exported(run, "webdataset")
    seen = set()
    for split in ("train", "val"):
        tars = sorted(glob.glob(f"{root}/{split}-*.tar"))
        assert [Path(t).name for t in tars] == [f"{split}-{i:05d}.tar" for i in range(3)]  # no gaps
        for item in wds.WebDataset(tars, shardshuffle=False).decode("pil"):
            seen.add(item["__key__"])
            image, mask = truth(run, item["__key__"])
            np.testing.assert_array_equal(np.asarray(item["mask.png"])[..., 0], mask)
            suffix = "jpg" if "jpg" in item else "png"
            np.testing.assert_array_equal(np.asarray(item[suffix].convert("RGB")), image)
            assert item["json"]["class_ids"] == run.rows[item["__key__"]]["class_ids"]
    assert seen == run.kept


# Hugging Face


def test_hf_round_trip(run: FakeRun, tmp_path: Path) -> None:
    import datasets

    root = exported(run, "hf")
    loaded = datasets.load_dataset(root, cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "val"}
    seen = set()
    for split in loaded.values():
        assert isinstance(split.features["mask"], datasets.Image)
        for row in split:
            seen.add(row["sample_id"])
            image, mask = truth(run, row["sample_id"])
            np.testing.assert_array_equal(np.asarray(row["mask"]), mask)
            np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), image)
    assert seen == run.kept


WITH_CLASSES = ("class_ids", "prompt_class_ids", "instances")


def test_hf_card_describes_the_contract(run: FakeRun) -> None:
    import datasets

    from maskmill.data_contracts import SAMPLE

    card = Path(exported(run, "hf"), "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    stated = datasets.Features._from_yaml_list(header["dataset_info"]["features"])
    plain = datasets.Features.from_arrow_schema(SAMPLE.schema)
    assert {name: stated[name] for name in plain if name not in WITH_CLASSES} == {
        name: kind for name, kind in plain.items() if name not in WITH_CLASSES
    }
    names = ["background", *(entry.name for entry in run.space.classes)]
    assert stated["class_ids"].feature.names == stated["prompt_class_ids"].feature.names == names
    assert stated["instances"].feature["class_id"].names == names
    assert header["class_colours"].keys() == {entry.name for entry in run.space.classes}
    row = datasets.load_dataset(exported(run, "hf"), split="train")[0]
    assert row["class_ids"] == run.rows[row["sample_id"]]["class_ids"]
    assert sum(s["num_examples"] for s in header["dataset_info"]["splits"]) == len(run.kept)
    assert header["license"] == "cc0-1.0"


def test_hf_shards_open_in_polars_and_duckdb(run: FakeRun) -> None:
    import duckdb
    import polars as pl

    pattern = f"{exported(run, 'hf')}/data/*/*.parquet"
    assert set(pl.read_parquet(pattern)["sample_id"]) == run.kept
    assert duckdb.sql(f"select count(*) from '{pattern}'").fetchall() == [(len(run.kept),)]


def test_croissant_is_valid_and_reads_the_masks(run: FakeRun) -> None:
    import mlcroissant as mlc

    root = exported(run, "hf")
    dataset = mlc.Dataset(jsonld=f"{root}/croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    seen = set()
    for record in dataset.records("samples"):
        sample_id = record["samples/sample_id"].decode()
        seen.add(sample_id)
        np.testing.assert_array_equal(np.asarray(record["samples/mask"]), truth(run, sample_id)[1])
    assert seen == run.kept


# all formats


@pytest.mark.parametrize("name", ["voc", "coco", "yolo", "webdataset", "hf"])
def test_card_and_manifest(run: FakeRun, name: str) -> None:
    root = Path(exported(run, name, title="Shapes of the test"))
    card, manifest = (root / "README.md").read_text(), json.loads((root / "manifest.json").read_text())
    assert "# Shapes of the test" in card
    for words in ("painter@v1", "a drawing of shapes", "CC0-1.0", "near_duplicate", "ingest (config c1)", "Seeds: 7"):
        assert words in card
    assert sum(manifest["counts"].values()) == manifest["rows"] == 3 * 7
    assert manifest["counts"]["kept"] == len(run.kept)
    assert load_label_space(str(root / "label_space.yaml")) == run.space
    assert "/tmp" not in card


@pytest.mark.parametrize("name", ["voc", "coco", "yolo", "webdataset", "hf"])
@pytest.mark.parametrize("kept", [0, 1])
def test_hardly_anything_kept(tmp_path: Path, name: str, kept: int) -> None:
    run = make_run(tmp_path / "run", shards=2, rows=2, duplicates=False)
    run.keep(set(sorted(run.rows)[:kept]))
    root = Path(exported(run, name))
    assert json.loads((root / "manifest.json").read_text())["counts"].get("kept", 0) == kept


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (33, 2)])
def test_odd_sizes_and_all_ignored(shape: tuple[int, int]) -> None:
    from pycocotools import mask as rle

    space = load_label_space("voc")
    for mask in (np.full(shape, IGNORE, np.uint8), np.full(shape, 3, np.uint8)):
        (only,) = annotate(mask, space, "class")
        assert only["iscrowd"] == int(mask.flat[0] == IGNORE)
        np.testing.assert_array_equal(rle.decode(only["segmentation"]), np.ones(shape, np.uint8))
    ring = polygon(np.ones(shape, bool))
    assert fill(ring, shape).all()


def test_every_class_id_survives_a_palette_png() -> None:
    from maskmill.data_contracts import encode_mask

    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    png = encode_mask(mask, load_label_space("voc").palette)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), mask)
    assert draw_mask(np.random.default_rng(0), 8, 8, (1,)).shape == (8, 8)


def test_card_and_manifest_hold_no_place_of_this_machine(run: FakeRun) -> None:
    config = {"source": {"kind": "folder", "root": "/home/me/data/pets"}, "score": {"model": "/opt/models/clip"}}
    exporter = create_exporter("hf", title="Pets")
    run_export(run.path, exporter, run.space, run_config=config)
    root = Path(export_root(run.path, exporter))
    for name in ("README.md", "manifest.json", "croissant.json"):
        text = (root / name).read_text()
        assert "/home/me" not in text
        assert "/opt" not in text
        assert run.path not in text
    assert json.loads((root / "manifest.json").read_text())["config"]["run"]["source"]["root"] == "…/pets"


def test_a_licence_that_hubs_do_not_know_is_named() -> None:
    assert _license_name(["CC0-1.0", "CC-BY-4.0"]) == {}
    assert _license_name(["research use (ACDC 2017)", "CC0-1.0"]) == {"license_name": "research use (ACDC 2017)"}
