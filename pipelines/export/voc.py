"""PASCAL VOC devkit: images, palette PNGs of class ids, and lists of stems."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from maskmill.data_contracts import LabelSpace, encode_mask
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split

ROOT = "VOCdevkit/VOC2012"


class VocExport(Exporter):
    """VOC layout, where `torchvision.datasets.VOCSegmentation(root, year="2012")` finds it.

    Masks are palette PNGs: a pixel's value is its class id, 255 is ignore. Many VOC readers look for `.jpg` only; with
    the shipped sources that are PNG, give them a suffix or read the files by their lists.
    """

    format: Literal["voc"] = "voc"
    version: ClassVar[int] = 1
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
