"""COCO annotations: run-length masks with real areas; holes, several parts and ignored pixels survive the trip."""

import json
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from maskmill.data_contracts import IGNORE, Instance, LabelSpace, Uint8Array, foreground_ids
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.objects import whole
from maskmill.pipelines.export.rings import edges
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles, by_split

EIGHT = np.ones((3, 3), dtype=np.int8)  # pixels that touch at a corner are one part


class CocoExport(Exporter):
    """COCO layout: `annotations/instances_<split>.json` and `images/<split>/`.

    Where objects are told apart, each is one annotation (`regions: object`), whole where objects overlap. Where they
    are not, or with `regions: class`, every class of an image is one, or each of its 8-connected parts (`regions:
    part`). Pixels marked ignore (255) become annotations with `iscrowd = 1`, one for each class of the image: that is
    how COCO says "nothing found here counts as wrong", and it leaves the list of categories as it is. Read back, every
    crowd region is 255 again.

    With `outlines: polygon` regions are polygons, one a connected part, holes joined to the outline; pycocotools draws
    the same pixels from them. Crowd regions are run-length codes always: COCO's readers want them so.
    """

    format: Literal["coco"] = Field(default="coco", description="name of the export format")
    regions: Literal["object", "class", "part"] = Field(
        default="object", description="one annotation an object where they are known (else a class), a class, or a part"
    )
    outlines: Literal["rle", "polygon"] = Field(
        default="rle", description="how regions are written: run-length codes, or polygons along the edges of pixels"
    )
    version: ClassVar[int] = 3
    values: ClassVar[str] = "Annotations name the categories of their file; ignored pixels have `iscrowd = 1`."
    loading: ClassVar[str] = (
        "from pycocotools.coco import COCO\n\n"
        'coco = COCO("<this folder>/annotations/instances_train.json")\n'
        "for annotation in coco.loadAnns(coco.getAnnIds(imgIds=coco.getImgIds()[:1])):\n"
        "    region = coco.annToMask(annotation)  # uint8 (H, W); iscrowd = 1 marks ignored pixels"
    )

    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        files: dict[str, bytes] = {}
        records: list[Record] = []
        for sample in samples:
            name = f"images/{sample.split}/{sample.image_name}"
            files[name] = sample.image
            height, width = sample.mask.shape
            image = {"file_name": sample.image_name, "height": height, "width": width}
            image |= {"sample_id": sample.sample_id, "source_path": sample.source_path}
            objects = sample.instances if self.regions == "object" else None
            annotations = list(annotate(sample.mask, space, self.regions, objects, self.outlines == "polygon"))
            records.append(
                {"sample_id": sample.sample_id, "split": sample.split, "image": image, "annotations": annotations}
            )
        return ShardFiles(files, records)

    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        categories = [
            {"id": category_id(space, i), "name": space.by_id[i].name, "supercategory": ""} for i in space.ids
        ]
        ids = {record["sample_id"]: number for number, record in enumerate(records, start=1)}
        return {
            f"annotations/instances_{split}.json": _instances(rows, categories, ids)
            for split, rows in by_split(records, self.splits).items()
        }

    def number_of(self, class_id: int, space: LabelSpace) -> int | None:
        return category_id(space, class_id) if class_id in space.by_id else None

    def notes(self, records: list[Record]) -> list[str]:
        return [
            "`source_path` of an image says which photo of the source it is.",
            "Ignored pixels (255) are annotations with `iscrowd = 1`, one for each class of the image.",
        ]


def category_id(space: LabelSpace, class_id: int) -> int:
    """COCO category of a class: the number that the dataset's own files use, where the label space names one."""
    source_id = space.by_id[class_id].source_id
    return class_id if source_id is None else source_id


def annotate(
    mask: Uint8Array,
    space: LabelSpace,
    regions: Literal["object", "class", "part"],
    objects: list[Instance] | None = None,
    polygons: bool = False,
) -> Iterator[Record]:
    """Annotations of one mask, uint8 (H, W), without ids: objects, or foreground by class and part; then crowds.
    `polygons`: as polygons, all but the crowds.
    """
    present = foreground_ids(mask, space)
    if objects is not None:
        for one, area in whole(objects, mask):
            score = {} if one.score is None else {"score": one.score}
            yield {**region_annotation(area.draw(), category_id(space, one.class_id), 0, polygons), **score}
    else:
        for class_id in present:
            region = mask == class_id
            for part in _parts(region) if regions == "part" else [region]:
                yield region_annotation(part, category_id(space, class_id), 0, polygons)
    ignored = mask == IGNORE
    for one in objects or ():
        if one.crowd and (pixels := one.mask) is not None and (shown := pixels & ignored).any():
            yield region_annotation(shown, category_id(space, one.class_id), 1)
            ignored = ignored & ~shown
    if ignored.any():
        for class_id in present or space.ids[:1]:
            yield region_annotation(ignored, category_id(space, class_id), 1)


def _parts(region: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    labelled, count = ndimage.label(region, EIGHT)
    for number in range(1, count + 1):
        yield labelled == number


def region_annotation(region: NDArray[np.bool_], category: int, crowd: int, polygons: bool = False) -> Record:
    """One annotation of a region, bool (H, W), with its area, box and run-length code or polygons; no ids yet."""
    from pycocotools import mask as rle  # type: ignore[import-untyped, unused-ignore]

    code = rle.encode(np.asfortranarray(region, dtype=np.uint8))
    counts = code["counts"]
    return {
        "category_id": category,
        "iscrowd": crowd,
        "area": int(rle.area(code)),
        "bbox": [float(value) for value in rle.toBbox(code)],
        "segmentation": _polygons(region)
        if polygons
        else {
            "size": [int(n) for n in code["size"]],
            "counts": counts if isinstance(counts, str) else counts.decode(),
        },
    }


def _polygons(region: NDArray[np.bool_]) -> list[list[int]]:
    """x, y, x, y, … around each 8-connected part of a region (H, W)."""
    labelled, count = ndimage.label(region, EIGHT)
    boxes = ndimage.find_objects(labelled, count)
    return [
        [int(v) for v in np.add(edges(labelled[box] == number), (box[1].start, box[0].start)).ravel()]
        for number, box in enumerate(boxes, start=1)
    ]


def _instances(rows: list[Record], categories: list[Record], ids: dict[str, int]) -> bytes:
    images: list[Record] = []
    annotations: list[Record] = []
    for row in rows:
        number = ids[row["sample_id"]]
        images.append({"id": number, **row["image"]})
        for annotation in row["annotations"]:
            # From 1: pycocotools' evaluation takes the annotation id 0 for "unmatched".
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    document = {
        "info": {"description": "exported by maskmill", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
