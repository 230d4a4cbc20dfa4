"""Photos with boxes, points, strokes or nothing but class names to masks and instances, by a promptable model."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from maskmill.data_contracts import SAMPLE, WEAK_LABEL, LabelSpace, content_id, list_shards, read_shard, write_shard
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.folder_names import check_photos
from maskmill.pipelines.weak.boxes import Boxes, boxes_in
from maskmill.pipelines.weak.label_photos import SHARD_SIZE, label_held
from maskmill.pipelines.weak.points import Point, Points
from maskmill.pipelines.weak.scribbles import ScribbleConfig, read_scribbles

Tell = Callable[[str, UnitReport], None]
Row = dict[str, Any]
BACKGROUND = "background"  # class of a point where no object is


def label_prompts(
    images: str,
    out_dir: str,
    space: LabelSpace,
    settings: dict[str, Any],
    *,
    boxes: Boxes | None = None,
    points: Points | None = None,
    scribbles: str | None = None,
    coding: str = "plain",
    progress: Tell | None = None,
) -> dict[str, int]:
    """Label every photo under `images`; returns photos by reason (`kept` = labelled). `settings` are those of labeler
    `promptable`. `scribbles` is a folder of STEM.png, coded as `coding` says.

    With boxes, points or scribbles the photos that have one are labelled; without any, the detector or CLIP says where
    the classes are. Leaves what `label_photos` leaves, and OUT/weak; a second run takes up what is done.

    Raises:
        FileNotFoundError: no such folder. ValueError: no prompt for any photo, or an unknown setting.
        KeyError: a class that the label space lacks.
    """
    check_photos(images)
    with working(out_dir):
        given = boxes is not None or points is not None or scribbles is not None
        if not given:
            how = "boxes by the detector" if settings.get("detector") else "from class names alone"
            return label_held(images, out_dir, space, "promptable", settings, progress, how=how, weak=None)
        source = FolderSource(root=images, images="", masks=None)
        tell = None if progress is None else lambda report: progress("read", report)
        map_units(ingest_stage(source, space), ingest_units(source, out_dir, SHARD_SIZE), progress=tell)
        strokes = {} if scribbles is None else _strokes(out_dir, scribbles, space, coding)
        if not _write(out_dir, space, boxes or {}, points or {}, strokes):
            raise ValueError(f"{images}: expected photos that the boxes, points or scribbles belong to, found none")
        options = {"tags": "none", **settings}
        how = " and ".join(
            name
            for name, there in (("boxes", boxes), ("points", points), ("scribbles", scribbles))
            if there is not None
        )
        weak = f"{out_dir}/weak"
        return label_held(images, out_dir, space, "promptable", options, progress, how=f"from {how}", weak=weak)


def _strokes(out_dir: str, folder: str, space: LabelSpace, coding: str) -> dict[str, Any]:
    """Scribbles by sample."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder, found none")
    wanted = ScribbleConfig(
        samples=f"{out_dir}/samples",
        label_space=space,
        root=folder,
        folder="",
        images="",
        coding=coding,  # type: ignore[arg-type]  # checked by pydantic
    )
    read_scribbles(wanted, f"{out_dir}/strokes")
    rows = [
        row
        for path in list_shards(f"{out_dir}/strokes/weak")
        for row in read_shard(path, WEAK_LABEL, ["sample_id", "scribble"]).to_pylist()
    ]
    return {row["sample_id"]: row["scribble"] for row in rows}


def _write(out_dir: str, space: LabelSpace, boxes: Boxes, points: Points, strokes: dict[str, Any]) -> int:
    """WeakLabel shards, a row for every photo; returns photos with a prompt."""
    hit = 0
    for path in list_shards(f"{out_dir}/samples"):
        rows: list[Row] = []
        for sample in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist():
            photo = str(sample["provenance"]["source_path"])
            drawn = [box.row(space.find(box.name).id) for box in boxes_in(boxes, photo)]
            dots = [_dot(point, space) for point in _points_in(points, photo)]
            stroke = strokes.get(sample["sample_id"])
            ids = sorted({int(one["class_id"]) for one in (*drawn, *dots)} & set(space.ids))
            own = {"class_ids": ids, "boxes": drawn, "points": dots, "scribble": stroke}
            rows.append({"sample_id": sample["sample_id"], **own})
            hit += bool(drawn or dots or stroke)
        known = [{**row, "scribble": row["scribble"] and content_id(row["scribble"]["bytes"])} for row in rows]
        stamp = content_id(space.fingerprint, json.dumps(known, sort_keys=True))
        target = f"{out_dir}/weak/{Path(path).name}"
        write_shard(target, WEAK_LABEL.table(rows), WEAK_LABEL, stage="prompts", fingerprint=stamp)
    return hit


def object_names(points: Points) -> list[str]:
    """The classes of points, the background left out, in alphabetical order."""
    return sorted({one.name for own in points.values() for one in own if one.name.lower() != BACKGROUND})


def _points_in(points: Points, photo: str) -> list[Point]:
    """The points of a photo: by its path without suffix, or by its file name alone."""
    stem = PurePosixPath(photo).with_suffix("")
    return points.get(str(stem)) or points.get(stem.name) or []


def _dot(point: Point, space: LabelSpace) -> Row:
    """The entry in a WEAK_LABEL row.

    Raises:
        KeyError: a class that the label space lacks.
    """
    nothing = point.name.lower() == BACKGROUND and space.background_id is not None and not space.has(point.name)
    return {"class_id": space.background_id if nothing else space.find(point.name).id, "x": point.x, "y": point.y}
