"""A folder of photos and class names to boxes: WeakLabel shards, and a JSON list that commands with boxes read."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskmill.data_contracts import (
    DECISION,
    PSEUDO_LABEL,
    SAMPLE,
    WEAK_LABEL,
    LabelSpace,
    content_id,
    list_shards,
    read_shard,
    write_shard,
)
from maskmill.data_contracts.sums import Listed
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.folder_names import check_photos
from maskmill.pipelines.stages.label import LabelConfig, label
from maskmill.pipelines.weak.label_photos import SHARD_SIZE

Tell = Callable[[str, UnitReport], None]
Row = dict[str, Any]


def detect_photos(
    images: str, out_dir: str, space: LabelSpace, settings: dict[str, Any], progress: Tell | None = None
) -> dict[str, int]:
    """Find the classes on every photo under `images`; returns photos by reason (`kept` = has a box). `settings` are
    those of labeler `detect`. A second run takes up what is done.

    Writes OUT/boxes.json (`maskmill label a2gnn --boxes` and others read it) and the contract shards OUT/samples,
    OUT/labels and OUT/weak, which labelers and trainers on weak labels read.

    Raises:
        FileNotFoundError: no such folder. ValueError: no photo in it, or an unknown setting.
    """
    check_photos(images)
    with working(out_dir):
        source = FolderSource(root=images, images="", masks=None)
        samples, labels = f"{out_dir}/samples", f"{out_dir}/labels"
        config = LabelConfig(labeler="detect", label_space=space, samples=samples, settings=settings)
        config.labeler_config()

        def tell(name: str) -> Callable[[UnitReport], None] | None:
            return None if progress is None else lambda report: progress(name, report)

        map_units(ingest_stage(source, space), ingest_units(source, out_dir, SHARD_SIZE), progress=tell("read"))
        counts = label(config, labels, progress=tell("detect"))
        write_weak(labels, f"{out_dir}/weak", space)
        with Listed(out_dir) as files:
            files.write("boxes.json", (json.dumps(_listed(samples, labels, space), indent=1) + "\n").encode())
        rejected = Counter(
            row["reason"]
            for path in list_shards(f"{out_dir}/rejects")
            for row in read_shard(path, DECISION).to_pylist()
        )
        return dict(Counter(counts) + rejected)


def write_weak(labels: str, out_dir: str, space: LabelSpace) -> int:
    """WeakLabel shards from PseudoLabel shards of labeler `detect`, a row for every row, with a score a box; returns
    boxes.
    """
    total = 0
    for path in list_shards(labels):
        rows = [_weak(row) for row in read_shard(path, PSEUDO_LABEL).to_pylist()]
        total += sum(len(row["boxes"]) for row in rows)
        stamp = content_id(space.fingerprint, json.dumps(rows, sort_keys=True))
        target = f"{out_dir.rstrip('/')}/{Path(path).name}"
        write_shard(target, WEAK_LABEL.table(rows), WEAK_LABEL, stage="detect", fingerprint=stamp)
    return total


def _weak(row: Row) -> Row:
    objects = row["instances"] or []
    boxes = [{"class_id": one["class_id"], **one["box"]} for one in objects]
    ids = sorted({int(one["class_id"]) for one in objects})
    scores = [one["score"] for one in objects]
    return {"sample_id": row["sample_id"], "class_ids": ids, "boxes": boxes, "box_scores": scores}


def _listed(samples: str, labels: str, space: LabelSpace) -> list[Row]:
    """Entries of the list that `read_boxes` reads, photo by photo."""
    entries: list[Row] = []
    for path in list_shards(samples):
        found = {r["sample_id"]: r for r in read_shard(f"{labels}/{Path(path).name}", PSEUDO_LABEL).to_pylist()}
        for row in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist():
            for one in found[row["sample_id"]]["instances"] or []:
                box = [round(one["box"][side], 2) for side in ("x0", "y0", "x1", "y1")]
                name = space.by_id[one["class_id"]].name
                entries.append({"file": row["provenance"]["source_path"], "name": name, "box": box})
    return entries
