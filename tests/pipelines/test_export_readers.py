"""Exports of hard samples through foreign readers: pixels, names and numbers as their own cards promise."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    Instance,
    LabelSpace,
    Uint8Array,
    content_id,
    decode_image,
    encode_mask,
    foreground_ids,
    write_shard,
)
from maskmill.pipelines.export import create_exporter, export_root, run_export
from maskmill.pipelines.export.coco import region_annotation
from maskmill.pipelines.export.voc import label_map
from tests.factories import jpeg

SPACE = LabelSpace.model_validate(
    {"name": "hard", "classes": [{"id": 1, "name": "cat"}, {"id": 200, "name": "dog"}, {"id": 254, "name": "elk: big"}]}
)


def masks() -> dict[str, Uint8Array]:
    """What formats trip over, by name."""
    island = np.zeros((40, 50), np.uint8)
    island[4:36, 5:45] = 200
    island[10:30, 12:38] = 0
    island[15:25, 20:30] = 200
    island[18:21, 23:26] = 254
    corner = np.zeros((20, 20), np.uint8)
    corner[2:8, 2:8] = corner[8:14, 8:14] = 1
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(60, 61)), 2)
    return {
        "island.png": island,
        "corner touch.jpg": corner,
        "wide.png": np.tile(np.repeat(np.array([0, 1, 200], np.uint8), 111), (7, 1)),
        "tall.jpg": np.repeat(np.array([254, 0, 1], np.uint8), 50)[:, None].repeat(3, axis=1),
        "one.png": np.full((1, 1), 254, np.uint8),
        "negative.jpg": np.zeros((30, 31), np.uint8),
        "ümlaut/=1+1.png": (noise > 0).astype(np.uint8),
    }


def encoded(name: str, shape: tuple[int, ...], seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    if name.endswith(".jpg"):
        return jpeg(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


class Run:
    """A run folder with the hard samples, all kept."""

    def __init__(self, folder: Path, named: dict[str, Uint8Array] | None = None) -> None:
        self.folder, self.masks, self.names = folder, {}, {}
        rows = []
        for seed, (name, mask) in enumerate((named or masks()).items()):
            image = encoded(name, mask.shape, seed)
            sample_id = content_id(name)
            self.masks[sample_id], self.names[sample_id] = mask, name
            rows.append(
                {
                    "sample_id": sample_id,
                    "image": {"bytes": image, "path": name},
                    "mask": {"bytes": encode_mask(mask, SPACE.palette), "path": None},
                    "height": mask.shape[0],
                    "width": mask.shape[1],
                    "class_ids": foreground_ids(mask, SPACE),
                    "provenance": {"source": "folder", "source_path": name},
                }
            )
            if name.startswith("wide"):  # late in the file: readers that guess kinds look at five samples
                rows[-1]["instances"] = [Instance.of(i, mask == i).row() for i in (1, 200)]
        self.rows = {row["sample_id"]: row for row in rows}
        shard = "shard-00000.parquet"
        write_shard(f"{folder}/samples/{shard}", SAMPLE.table(rows), SAMPLE, stage="ingest", fingerprint="s")
        verdict = {"stage": "select", "kept": True, "reason": "kept", "shard": shard}
        decisions = DECISION.table([{"sample_id": i, **verdict} for i in sorted(self.rows)])
        write_shard(f"{folder}/decisions.parquet", decisions, DECISION, stage="select", fingerprint="d")

    def export(self, name: str, **options: Any) -> Path:
        exporter = create_exporter(name, **{"splits": {"train": 1.0}, **options})
        run_export(str(self.folder), exporter, SPACE)
        return Path(export_root(str(self.folder), exporter))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def same(run: Run, found: Iterator[tuple[str, Uint8Array]]) -> None:
    """Every sample once, with its mask."""
    seen = set()
    for sample_id, mask in found:
        seen.add(sample_id)
        np.testing.assert_array_equal(mask, run.masks[sample_id], err_msg=run.names[sample_id])
    assert seen == set(run.masks)


# VOC


def test_voc_opens_in_torchvision_whatever_the_images_hold(run: Run) -> None:
    from torchvision.datasets import VOCSegmentation

    root = run.export("voc")
    dataset = VOCSegmentation(str(root), year="2012", image_set="train")
    same(run, ((Path(p).stem, np.asarray(mask)) for (_, mask), p in zip(dataset, dataset.images, strict=True)))
    for (image, _), path in zip(dataset, dataset.images, strict=True):
        row = run.rows[Path(path).stem]
        np.testing.assert_array_equal(np.asarray(image), decode_image(row["image"]["bytes"]))
    pngs = sum(name.endswith(".png") for name in run.names.values())
    assert f"named `.jpg`; {pngs} hold a PNG" in (root / "README.md").read_text()


def test_voc_masks_can_be_read_by_the_colours_of_the_label_map(run: Run) -> None:
    folder = run.export("voc") / "VOCdevkit/VOC2012"
    lines = [line.split(":") for line in (folder / "labelmap.txt").read_text().splitlines() if line[0] != "#"]
    assert [len(line) for line in lines] == [4] * 5
    names = {tuple(int(v) for v in line[1].split(",")): line[0] for line in lines}
    assert list(names.values()) == ["background", "cat", "dog", "elk big", "ignored"]
    values = {"background": 0, "cat": 1, "dog": 200, "elk big": 254, "ignored": 255}
    for sample_id, mask in run.masks.items():
        colours = np.asarray(Image.open(folder / f"SegmentationClass/{sample_id}.png").convert("RGB"))
        found = [[values[names[tuple(int(v) for v in pixel)]] for pixel in line] for line in colours]
        np.testing.assert_array_equal(found, mask)


def test_a_label_map_without_background_has_none() -> None:
    space = LabelSpace.model_validate({"name": "n", "background_id": None, "classes": [{"id": 0, "name": "sky"}]})
    assert [line.split(":")[0] for line in label_map(space).decode().splitlines()[2:]] == ["sky", "ignored"]


def test_a_voc_export_brings_its_own_classes_back(run: Run) -> None:
    from maskmill.pipelines.ingest import SOURCES

    root = run.export("voc") / "VOCdevkit/VOC2012"
    space = SOURCES.validate({"kind": "voc", "root": str(root), "split": "train"}).own_space()
    assert [(c.id, c.name) for c in space.classes] == [(1, "cat"), (200, "dog"), (254, "elk big")]
    assert space.background_id == 0


# COCO


@pytest.mark.parametrize("outlines", ["rle", "polygon"])
def test_coco_opens_in_pycocotools(run: Run, outlines: str) -> None:
    from pycocotools.coco import COCO

    root = run.export("coco", outlines=outlines)
    coco = COCO(f"{root}/annotations/instances_train.json")

    def found() -> Iterator[tuple[str, Uint8Array]]:
        for image in coco.loadImgs(coco.getImgIds()):
            assert image["source_path"] == run.names[image["sample_id"]]
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for note in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
                assert isinstance(note["segmentation"], list) == (outlines == "polygon")
                mask[coco.annToMask(note) == 1] = note["category_id"]
            yield image["sample_id"], mask

    same(run, found())


def test_coco_crowds_are_run_lengths_even_among_polygons(tmp_path: Path) -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[2:5, 2:5] = 1
    mask[7] = 255
    root = Run(tmp_path / "run", {"a.png": mask}).export("coco", outlines="polygon")
    notes = json.loads((root / "annotations/instances_train.json").read_text())["annotations"]
    kinds = {note["iscrowd"]: type(note["segmentation"]) for note in notes}
    assert kinds == {0: list, 1: dict}
    assert notes[0]["segmentation"] == [[2, 2, 2, 5, 5, 5, 5, 2]]


@pytest.mark.parametrize("seed", range(4))
def test_polygons_draw_exactly_the_region(seed: int) -> None:
    from pycocotools import mask as rle

    rng = np.random.default_rng(seed)
    for number in range(40):
        size = (int(rng.integers(1, 50)), int(rng.integers(1, 50)))
        noise = rng.random(size) < rng.random()
        blobs = ndimage.gaussian_filter(rng.normal(size=size), rng.uniform(0, 3)) > -0.02
        region = noise if number % 2 else blobs
        if region.any():
            outlines = region_annotation(region, 1, 0, polygons=True)["segmentation"]
            again = rle.decode(rle.merge(rle.frPyObjects(outlines, *size)))
            np.testing.assert_array_equal(again.astype(bool), region)


# YOLO


def cut(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return points.astype(np.int32)


def rounded(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points).astype(np.int32)


@pytest.mark.parametrize("pixels", [cut, rounded])
def test_yolo_outlines_mean_the_same_pixels_to_all_readers(
    run: Run, pixels: Callable[[NDArray[np.float64]], NDArray[np.int32]]
) -> None:
    import cv2

    root = run.export("yolo", min_pixels=1)

    def found() -> Iterator[tuple[str, Uint8Array]]:
        for path in (root / "labels/train").glob("*.txt"):
            mask = np.zeros(run.masks[path.stem].shape, np.uint8)
            for line in path.read_text().splitlines():
                number, *values = line.split()
                points = np.array(values, np.float64).reshape(-1, 2) * mask.shape[::-1]
                cv2.fillPoly(mask, [pixels(points)], (SPACE.ids[int(number)],))
            yield path.stem, mask

    same(run, found())


def test_yolo_opens_in_supervision(run: Run) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    root = run.export("yolo", min_pixels=1)
    data = yaml.safe_load((root / "data.yaml").read_text())
    dataset = supervision.DetectionDataset.from_yolo(
        str(root / data["train"]), str(root / "labels/train"), str(root / "data.yaml")
    )
    assert dataset.classes == [SPACE.by_id[i].name for i in SPACE.ids]

    def found() -> Iterator[tuple[str, Uint8Array]]:
        for path, _, notes in dataset:
            mask = np.zeros(run.masks[Path(path).stem].shape, np.uint8)
            for area, number in zip(notes.mask if notes.mask is not None else (), notes.class_id, strict=True):
                mask[area] = SPACE.ids[int(number)]
            yield Path(path).stem, mask

    same(run, found())


SPLITS: list[tuple[dict[str, float], dict[str, str]]] = [
    ({"train": 1.0}, {"train": "images/train", "val": "images/train"}),
    ({"val": 1.0}, {"train": "images/val", "val": "images/val"}),
    ({"test": 1.0}, {"train": "images/test", "val": "images/test", "test": "images/test"}),
    ({"train": 0.5, "val": 0.5}, {"train": "images/train", "val": "images/val"}),
]


@pytest.mark.parametrize(("splits", "keys"), SPLITS)
def test_yolo_names_folders_that_are_there(run: Run, splits: dict[str, float], keys: dict[str, str]) -> None:
    root = run.export("yolo", splits=splits)
    data = yaml.safe_load((root / "data.yaml").read_text())
    names = data.pop("names")
    assert data == keys, "both keys, and no path: the file's own folder counts"
    assert names == {0: "cat", 1: "dog", 2: "elk: big"}
    assert all(any((root / folder).iterdir()) for folder in data.values())
    borrowed = sum(folder != f"images/{key}" for key, folder in keys.items())
    assert (root / "README.md").read_text().count("`data.yaml` names the images of") == borrowed


def test_yolo_keeps_negatives_and_says_so(run: Run) -> None:
    root = run.export("yolo")
    (negative,) = (i for i, name in run.names.items() if name == "negative.jpg")
    assert (root / f"labels/train/{negative}.txt").read_bytes() == b""
    assert (root / f"images/train/{negative}.jpg").is_file()
    assert "Images without objects, with an empty label file: 2." in (root / "README.md").read_text()  # 1x1: too small


# WebDataset, Hugging Face


def test_webdataset_has_the_same_keys_everywhere(run: Run, tmp_path: Path) -> None:
    import datasets
    import webdataset as wds

    root = run.export("webdataset")
    tar = str(root / "train-00000.tar")
    samples = list(wds.WebDataset(tar, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "mask.png"))
    same(run, ((key, np.asarray(mask)[..., 0]) for key, _, mask in samples))
    for key, image, _ in samples:
        np.testing.assert_array_equal(np.asarray(image), decode_image(run.rows[key]["image"]["bytes"]))
    loaded = datasets.load_dataset(str(root), split="train", cache_dir=str(tmp_path / "cache"))
    same(run, ((row["__key__"], np.asarray(row["mask.png"])) for row in loaded))
    objects = {row["__key__"]: row["json"]["instances"] for row in loaded}
    assert [len(found) for found in objects.values() if found] == [2], "kinds that five samples do not show"


def test_hf_holds_what_the_pipeline_saw(tmp_path: Path) -> None:
    import datasets

    from maskmill.pipelines.export.sample import ExportSample

    given = Run(tmp_path / "run", {"plain.png": np.ones((8, 9), np.uint8)})
    (row,) = given.rows.values()
    deep, clear = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 72).astype(np.uint16).reshape(8, 9)).save(deep, format="TIFF")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)).save(clear, format="PNG")
    photos = {"plain.png": row["image"]["bytes"], "deep.tif": deep.getvalue(), "clear.png": clear.getvalue()}
    rows = [{**row, "sample_id": name, "image": {"bytes": data, "path": name}} for name, data in photos.items()]
    exporter = create_exporter("hf", splits={"train": 1.0})
    table = SAMPLE.table(rows).to_pylist()
    files = exporter.shard([ExportSample(r["sample_id"], "train", r) for r in table], SPACE, "shard-00000").files
    path = tmp_path / "train.parquet"
    path.write_bytes(files["data/train/shard-00000.parquet"])
    loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    for back in loaded:
        seen = decode_image(photos[back["sample_id"]])
        np.testing.assert_array_equal(np.asarray(back["image"].convert("RGB")), seen, err_msg=back["sample_id"])
    names = [r["image"]["path"] for r in loaded.cast_column("image", datasets.Image(decode=False))]
    assert names == ["plain.png", "deep.png", "clear.png"]


# all formats


@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_a_table_leads_back_to_the_photos(run: Run, name: str) -> None:
    root = run.export(name)
    rows = list(csv.DictReader(io.StringIO((root / "samples.csv").read_text())))
    assert {row["sample_id"]: row["source_path"] for row in rows} == run.names
    for row in rows:
        data = (root / row["file"]).read_bytes()
        assert data == run.rows[row["sample_id"]]["image"]["bytes"]


NUMBERS = {"voc": (1, 200), "webdataset": (1, 200), "hf": (1, 200), "coco": (1, 18), "yolo": (0, 1)}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_card_has_the_numbers_of_the_files(tmp_path: Path, name: str) -> None:
    given = Run(tmp_path / "run")
    classes = [{"id": 1, "name": "cat"}, {"id": 200, "name": "dog", "source_id": 18}, {"id": 254, "name": "elk"}]
    space = LabelSpace.model_validate({"name": "s", "classes": classes})
    exporter = create_exporter(name, splits={"train": 1.0})
    run_export(str(given.folder), exporter, space)
    card = Path(export_root(str(given.folder), exporter), "README.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")] for line in card.splitlines() if line.startswith("| ")]
    found = {row[1]: row[2] for row in cells}
    assert (found["cat"], found["dog"]) == tuple(map(str, NUMBERS[name]))
    assert found["background"] == ("" if name in ("yolo", "coco") else "0")
    assert ("Masks hold class ids" in card) == (name not in ("yolo", "coco"))
