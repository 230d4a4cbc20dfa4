"""What each reader makes of an export: masks uint8 (H, W) by sample id. Each takes the folder of the export."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.roundtrip.samples import SPACE
from maskmill.data_contracts import IGNORE, SAMPLE, Uint8Array, decode_mask, read_shard

Found = Iterator[tuple[str, Uint8Array]]
Reader = Callable[[Path], Found]


def _size(path: Path | str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def voc_torchvision(root: Path) -> Found:
    from torchvision.datasets import VOCSegmentation

    dataset = VOCSegmentation(str(root), year="2012", image_set="train")
    for (_, mask), path in zip(dataset, dataset.images, strict=True):
        yield Path(path).stem, np.asarray(mask)


def voc_by_colour(root: Path) -> Found:
    """As CVAT and datumaro do: colours of the masks, looked up in labelmap.txt."""
    folder = root / "VOCdevkit/VOC2012"
    ids = {"background": 0, "ignored": IGNORE, **{SPACE.by_id[i].name: i for i in SPACE.ids}}
    lines = [line.split(":") for line in (folder / "labelmap.txt").read_text().splitlines() if not line.startswith("#")]
    values = {tuple(map(int, line[1].split(","))): ids[line[0]] for line in lines}
    for path in (folder / "SegmentationClass").iterdir():
        colours = np.asarray(Image.open(path).convert("RGB"))
        flat = [values[r, g, b] for r, g, b in colours.reshape(-1, 3).tolist()]
        yield path.stem, np.array(flat, np.uint8).reshape(colours.shape[:2])


def coco_pycocotools(root: Path) -> Found:
    from pycocotools.coco import COCO  # type: ignore[import-untyped, unused-ignore]

    coco = COCO(str(root / "annotations/instances_train.json"))
    for image in coco.loadImgs(coco.getImgIds()):
        notes = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for note in sorted(notes, key=lambda note: -note["area"]):  # of two that overlap the smaller is on top
            mask[coco.annToMask(note) == 1] = IGNORE if note["iscrowd"] else note["category_id"]
        yield image["sample_id"], mask


def _detections(dataset: Any) -> Found:
    for path, _, notes in dataset:
        mask = np.zeros(_size(path), np.uint8)
        areas = [] if notes.mask is None else list(zip(notes.mask, notes.class_id, strict=True))
        for area, number in sorted(areas, key=lambda item: -int(item[0].sum())):
            mask[area] = SPACE.ids[int(number)]
        yield Path(path).stem, mask


def coco_supervision(root: Path) -> Found:
    from supervision import DetectionDataset

    notes = str(root / "annotations/instances_train.json")
    yield from _detections(DetectionDataset.from_coco(str(root / "images/train"), notes, force_masks=True))


def yolo_supervision(root: Path) -> Found:
    """Rounds corners to whole pixels."""
    from supervision import DetectionDataset

    folders = (str(root / "images/train"), str(root / "labels/train"), str(root / "data.yaml"))
    yield from _detections(DetectionDataset.from_yolo(*folders, force_masks=True))


def yolo_cut(root: Path) -> Found:
    """As ultralytics does: corners are cut to whole pixels and filled, outline included."""
    import cv2

    for path in (root / "images/train").iterdir():
        mask = np.zeros(_size(path), np.uint8)
        for line in (root / f"labels/train/{path.stem}.txt").read_text().splitlines():
            number, *values = line.split()
            points = np.array(values, np.float64).reshape(-1, 2) * mask.shape[::-1]
            cv2.fillPoly(mask, [points.astype(np.int32)], (SPACE.ids[int(number)],))
        yield path.stem, mask


def tars_webdataset(root: Path) -> Found:
    import webdataset

    for item in webdataset.WebDataset(str(root / "train-00000.tar"), shardshuffle=False).decode("pil"):
        yield item["__key__"], np.asarray(item["mask.png"])[..., 0]


def tars_datasets(root: Path) -> Found:
    for row in _load(root):
        yield row["__key__"], np.asarray(row["mask.png"])


def hf_datasets(root: Path) -> Found:
    for row in _load(root):
        yield row["sample_id"], np.asarray(row["mask"])


def _load(root: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(root), split="train", cache_dir=str(root.parent / ".cache" / root.name))


def hf_polars(root: Path) -> Found:
    import polars

    for row in polars.read_parquet(str(root / "data/train/*.parquet")).to_dicts():
        yield row["sample_id"], decode_mask(row["mask"]["bytes"], row["sample_id"])


def ingested(kind: str, below: str = "", **options: object) -> Reader:
    """maskmill's own source of that kind."""

    def read(root: Path) -> Found:
        from maskmill.pipelines.core.stage import map_units
        from maskmill.pipelines.ingest import SOURCES, ingest_stage, ingest_units

        given = {"kind": kind, "root": str(root / below), "allow_empty": True, **options}
        run = root.parent / f".{root.name}-{kind}"
        units = ingest_units(SOURCES.validate(given), str(run), 100)
        for report in map_units(ingest_stage(SOURCES.validate(given), SPACE), units):
            for row in read_shard(report.unit.outputs[0], SAMPLE).to_pylist():
                yield _named(row), decode_mask(row["mask"]["bytes"], row["sample_id"])

    return read


def _named(row: dict[str, Any]) -> str:
    """Id of the exported sample: exports of files are named so; tables keep the id, for it is that of their content."""
    stem = Path(row["provenance"]["source_path"]).stem
    return stem if len(stem) == len(row["sample_id"]) else str(row["sample_id"])


READERS: dict[str, tuple[str, dict[str, object], dict[str, Reader]]] = {  # export: format, options, readers
    "voc": (
        "voc",
        {},
        {
            "torchvision": voc_torchvision,
            "labelmap": voc_by_colour,
            "maskmill": ingested("voc", "VOCdevkit/VOC2012", split="train"),
        },
    ),
    **{
        name: (
            "coco",
            options,
            {
                "pycocotools": coco_pycocotools,
                "supervision": coco_supervision,
                "maskmill": ingested("coco", annotations="annotations/instances_train.json", images="images/train"),
            },
        )
        for name, options in (("coco", {}), ("coco_polygon", {"outlines": "polygon"}))
    },
    "yolo": (
        "yolo",
        {"min_pixels": 1},
        {"trainers": yolo_cut, "supervision": yolo_supervision, "maskmill": ingested("yolo", corners="pixels")},
    ),
    "webdataset": (
        "webdataset",
        {},
        {
            "webdataset": tars_webdataset,
            "datasets": tars_datasets,
            "maskmill": ingested("webdataset", remap={255: "ignore"}),
        },
    ),
    "hf": (
        "hf",
        {},
        {"datasets": hf_datasets, "polars": hf_polars, "maskmill": ingested("hf_parquet", folder="data")},
    ),
}
