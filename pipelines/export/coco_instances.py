"""Instances of PseudoLabel shards as a COCO file: one annotation an object, with its mask, where labels tell objects
apart.
"""

import json
import posixpath
from typing import Any

from maskmill.data_contracts import PSEUDO_LABEL, SAMPLE, Instance, LabelSpace, list_shards, read_shard
from maskmill.data_contracts.sums import Listed
from maskmill.pipelines.export.coco import category_id, region_annotation

Row = dict[str, Any]


def coco_instances(samples: str, labels: str, space: LabelSpace) -> Row:
    """The COCO document of all instances in `labels` (PSEUDO_LABEL shards) of the photos in `samples` (SAMPLE shards).

    Masks are run-length codes; `box` keeps the box that the instance was made from, `bbox` is the mask's own; `score`
    stands where there is one. Objects without a pixel are left out.
    """
    found: dict[str, list[Row]] = {}
    for path in list_shards(labels):
        for row in read_shard(path, PSEUDO_LABEL, ["sample_id", "instances"]).to_pylist():
            found[row["sample_id"]] = row["instances"] or []
    images: list[Row] = []
    annotations: list[Row] = []
    for path in list_shards(samples):
        for row in read_shard(path, SAMPLE, ["sample_id", "height", "width", "provenance"]).to_pylist():
            if row["sample_id"] not in found:
                continue
            name = str(row["provenance"]["source_path"])
            number = len(images) + 1
            images.append({"id": number, "file_name": name, "height": row["height"], "width": row["width"]})
            for instance in found[row["sample_id"]]:
                one = Instance.read(instance, row["height"], row["width"])
                if (pixels := one.mask) is not None and pixels.any():
                    note = region_annotation(pixels, category_id(space, one.class_id), int(one.crowd))
                    score = {} if one.score is None else {"score": one.score}
                    place = {"id": len(annotations) + 1, "image_id": number, "box": list(one.box)}
                    annotations.append({**place, **note, **score})
    categories = [{"id": category_id(space, i), "name": space.by_id[i].name, "supercategory": ""} for i in space.ids]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def write_coco_instances(samples: str, labels: str, space: LabelSpace, target: str) -> int:
    """Write the document to `target`; returns the number of instances."""
    document = coco_instances(samples, labels, space)
    folder, name = posixpath.split(target)
    with Listed(folder or ".", more=True) as files:
        files.write(name, json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    return len(document["annotations"])
