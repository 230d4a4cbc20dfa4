"""Boxes from files, and ready-made seed maps beside them, to WeakLabel shards of ingested photos."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    SAMPLE,
    WEAK_LABEL,
    LabelSpace,
    content_id,
    decode_mask,
    encode_mask,
    list_shards,
    load_label_space,
    read_bytes,
    read_shard,
    write_shard,
)
from maskmill.data_contracts.labels import AnySpace
from maskmill.pipelines.weak.boxes import boxes_in, read_boxes


class HintConfig(BaseModel):
    """What is known of the photos. A photo's seed map is SEEDS/STEM.png at its size: class ids, 255 = nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: str = Field(description="folder of SAMPLE shards")
    boxes: str = Field(description="folder of VOC XML files, COCO .json, .csv or a JSON list")
    seeds: str = Field(default="", description="folder of seed maps; empty = none")
    label_space: AnySpace = Field(default="voc", description="built-in name, YAML file, or the space itself")
    difficult: bool = Field(default=True, description="do objects count that VOC marks as difficult")

    @property
    def space(self) -> LabelSpace:
        return load_label_space(self.label_space) if isinstance(self.label_space, str) else self.label_space


def write_hints(config: HintConfig, out_dir: str) -> dict[str, int]:
    """WEAK_LABEL shards in `out_dir`, a row for every Sample row; returns photos with a box, with a seed map, and all.

    Raises:
        FileNotFoundError: no shards or boxes. ValueError: no photo with a box, or a seed map of another size.
        KeyError: a class that the label space lacks.
    """
    space, boxes = config.space, read_boxes(config.boxes, difficult=config.difficult)
    paths = list_shards(config.samples)
    if not paths:
        raise FileNotFoundError(f"{config.samples}: expected shards (*.parquet), found none; ingest the photos first")
    counts = {"boxed": 0, "seeded": 0, "photos": 0}
    for path in paths:
        rows = []
        for sample in read_shard(path, SAMPLE, ["sample_id", "height", "width", "provenance"]).to_pylist():
            photo = str(sample["provenance"]["source_path"])
            values = [box.row(space.find(box.name).id) for box in boxes_in(boxes, photo)]
            row: dict[str, Any] = {"sample_id": sample["sample_id"], "boxes": values}
            row["class_ids"] = sorted({int(value["class_id"]) for value in values})
            if (seeds := _seeds(config, photo, (sample["height"], sample["width"]))) is not None:
                row["scribble"] = {"bytes": seeds, "path": None}
            counts["boxed"] += bool(values)
            counts["seeded"] += "scribble" in row
            counts["photos"] += 1
            rows.append(row)
        stamp = content_id(space.fingerprint, json.dumps(rows, sort_keys=True, default=repr))
        target = f"{out_dir.rstrip('/')}/{Path(path).name}"
        write_shard(target, WEAK_LABEL.table(rows), WEAK_LABEL, stage="hints", fingerprint=stamp)
    if not counts["boxed"]:
        raise ValueError(f"{config.boxes}: expected boxes of photos in {config.samples}, found none")
    return counts


def _seeds(config: HintConfig, photo: str, size: tuple[int, int]) -> bytes | None:
    path = Path(config.seeds) / f"{PurePosixPath(photo).stem}.png"
    if not config.seeds or not path.is_file():
        return None
    seeds = decode_mask(read_bytes(str(path)), str(path))
    if seeds.shape != size:
        raise ValueError(f"{path}: expected seeds of {size[1]}x{size[0]}, found {seeds.shape[1]}x{seeds.shape[0]}")
    return encode_mask(seeds, config.space.palette)
