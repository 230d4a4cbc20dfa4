"""PASCAL VOC devkit: images, palette PNGs of class ids, and lists of stems."""

import io
from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, encode_mask
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.objects import object_map
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split, path_table, png_note
from maskmill.pipelines.ingest.class_files import VALUES

ROOT = "VOCdevkit/VOC2012"


class VocExport(Exporter):
    """VOC layout, where `torchvision.datasets.VOCSegmentation(root, year="2012")` finds it.

    Masks are palette PNGs: a pixel's value is its class id, 255 is ignore. Where objects are told apart,
    `SegmentationObject` numbers them from 1 on. Every image is named `.jpg`, for VOC readers look for no other; those
    that are PNG stay PNG under that name. `labelmap.txt` names the colour of each class, for readers that go by colour.
    """

    format: Literal["voc"] = Field(default="voc", description="name of the export format")
    version: ClassVar[int] = 4
    loading: ClassVar[str] = (
        "from torchvision.datasets import VOCSegmentation\n\n"
        'dataset = VOCSegmentation("<this folder>", year="2012", image_set="train")\n'
        "image, mask = dataset[0]  # PIL images; np.asarray(mask) holds class ids, 255 = ignore"
    )

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        files: dict[str, bytes] = {}
        records: list[Record] = []
        for sample in samples:
            name = f"{ROOT}/JPEGImages/{sample.jpeg_name}"
            files[name] = sample.image
            files[f"{ROOT}/SegmentationClass/{sample.sample_id}.png"] = encode_mask(sample.mask, space.palette)
            if sample.instances is not None:
                objects = encode_objects(object_map(sample.instances, sample.mask), sample.mask, space)
                files[f"{ROOT}/SegmentationObject/{sample.sample_id}.png"] = objects
            origin = {"file": name, "source_path": sample.source_path, "png": sample.suffix == ".png"}
            records.append({"sample_id": sample.sample_id, "split": sample.split, **origin})
        return ShardFiles(files, records)

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        lists = by_split(records, self.splits)
        if {"train", "val"} <= set(lists) and "trainval" not in lists:
            lists["trainval"] = [r for r in records if r["split"] in ("train", "val")]
        stems = {
            f"{ROOT}/ImageSets/Segmentation/{name}.txt": "".join(f"{r['sample_id']}\n" for r in rows).encode()
            for name, rows in lists.items()
        }
        return {**stems, f"{ROOT}/labelmap.txt": label_map(space), "samples.csv": path_table(records)}

    def notes(self, records: list[Record]) -> list[str]:
        return ["`samples.csv` says which photo of the source each image is.", *png_note(records)]


def label_map(space: LabelSpace) -> bytes:
    """`label:r,g,b:parts:actions`, a line a colour that masks may show, background and ignore among them; and a comment
    with their values.
    """
    names = {i: space.by_id[i].name for i in space.ids}
    if space.background_id is not None:
        names = {space.background_id: "background", **names}
    names[IGNORE] = "ignored"
    lines = ["# label:color_rgb:parts:actions", VALUES + ",".join(map(str, names))]
    for value, name in names.items():
        colour = ",".join(str(c) for c in space.palette[3 * value : 3 * value + 3])
        lines.append(f"{' '.join(name.replace(':', ' ').split())}:{colour}::")
    return ("\n".join(lines) + "\n").encode()


def encode_objects(numbers: NDArray[np.int32], mask: Uint8Array, space: LabelSpace) -> bytes:
    """PNG of the number of each pixel's object, 0 none, 255 ignore; of 16 bits with 65535 for ignore where an image has
    more than 254 objects.
    """
    if numbers.max() < IGNORE:
        return encode_mask(np.where(mask == IGNORE, IGNORE, numbers).astype(np.uint8), space.palette)
    buffer = io.BytesIO()
    wide = np.where(mask == IGNORE, 65535, np.minimum(numbers, 65534)).astype(np.uint16)
    Image.fromarray(wide).save(buffer, format="PNG")
    return buffer.getvalue()
