"""PASCAL VOC devkit: images, palette PNGs of class ids, and lists of stems."""

import io
from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, encode_mask
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.objects import object_map
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split

ROOT = "VOCdevkit/VOC2012"


class VocExport(Exporter):
    """VOC layout, where `torchvision.datasets.VOCSegmentation(root, year="2012")` finds it.

    Masks are palette PNGs: a pixel's value is its class id, 255 is ignore. Where objects are told apart,
    `SegmentationObject` numbers them from 1 on. Many VOC readers look for `.jpg` only; with
    the shipped sources that are PNG, give them a suffix or read the files by their lists.
    """

    format: Literal["voc"] = "voc"
    version: ClassVar[int] = 2
    loading: ClassVar[str] = (
        "from torchvision.datasets import VOCSegmentation\n\n"
        'dataset = VOCSegmentation("<this folder>", year="2012", image_set="train")\n'
        "image, mask = dataset[0]  # PIL images; np.asarray(mask) holds class ids, 255 = ignore"
    )

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        files: dict[str, bytes] = {}
        records: list[Record] = []
        for sample in samples:
            files[f"{ROOT}/JPEGImages/{sample.image_name}"] = sample.image
            files[f"{ROOT}/SegmentationClass/{sample.sample_id}.png"] = encode_mask(sample.mask, space.palette)
            if sample.instances is not None:
                objects = encode_objects(object_map(sample.instances, sample.mask), sample.mask, space)
                files[f"{ROOT}/SegmentationObject/{sample.sample_id}.png"] = objects
            records.append({"sample_id": sample.sample_id, "split": sample.split})
        return ShardFiles(files, records)

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        lists = by_split(records, self.splits)
        if {"train", "val"} <= set(lists) and "trainval" not in lists:
            lists["trainval"] = [r for r in records if r["split"] in ("train", "val")]
        return {
            f"{ROOT}/ImageSets/Segmentation/{name}.txt": "".join(f"{r['sample_id']}\n" for r in rows).encode()
            for name, rows in lists.items()
        }


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
