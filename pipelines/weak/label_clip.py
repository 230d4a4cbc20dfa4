"""A folder of frames or a video file, and boxes in its first frame, to masks: contract shards, PNG files, a video."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.data_contracts import (
    PSEUDO_LABEL,
    SAMPLE,
    WEAK_LABEL,
    LabelClass,
    LabelSpace,
    Uint8Array,
    content_id,
    decode_image,
    decode_mask,
    encode_mask,
    list_shards,
    read_shard,
    shard_name,
    write_shard,
)
from maskmill.data_contracts.sums import Listed
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.video import VideoSource
from maskmill.pipelines.stages.label import LabelConfig, label
from maskmill.pipelines.weak.boxes import NO_FILE, Box, Boxes, boxes_in, read_boxes
from maskmill.vision.video import encode_video

MOST_FRAMES = 2000  # a clip is labelled in one go: all its frames lie in memory
Row = dict[str, Any]


@dataclass(frozen=True)
class ClipReport:
    """What came out of one clip."""

    frames: int
    labelled: int
    objects: tuple[str, ...]


def first_boxes(boxes: Boxes, source: FolderSource | VideoSource, where: str) -> list[Box]:
    """The boxes of a clip's first frame: those that name no file, then those that name this frame (or this video).

    Raises:
        ContractError: there are none; says which photos the boxes name. ValueError: the clip has no frame.
    """
    given = boxes.get(NO_FILE, [])
    if boxes.keys() == {NO_FILE}:
        return given
    first = _first(source)
    given = [*given, *boxes_in(boxes, first)]
    if not given:
        named = f"boxes of {', '.join(sorted(boxes)[:3])}"
        raise bad_annotation(where, f"boxes of the first frame, {first}", named, "name that frame, or no file at all")
    return given


def _first(source: FolderSource | VideoSource) -> str:
    """Path of the first frame, in the order of `_frames`; of a video file, its own."""
    if isinstance(source, VideoSource):
        return Path(source.root).name
    entries = [entry for entry in source.entries() if "stem" in entry.fields]
    if not entries:
        raise ValueError(f"{source.root}: expected frames, found none")
    return min((source.place(entry.fields["stem"], entry.key)[1] or 0, entry.key) for entry in entries)[1]


def clip_space(boxes: Sequence[Box]) -> LabelSpace:
    """One class an object, ids 1, 2, … in the order of the boxes; names that repeat are numbered."""
    names = [given.name for given in boxes]
    seen = [names[: i + 1].count(name) for i, name in enumerate(names)]
    unique = [name if names.count(name) == 1 else f"{name} {n}" for name, n in zip(names, seen, strict=True)]
    return LabelSpace(name="clip", classes=tuple(LabelClass(id=i, name=n) for i, n in enumerate(unique, start=1)))


def label_clip(
    clip: str,
    boxes: str,
    out: str,
    agent: str | None = None,
    *,
    policy: str = "learned",
    rate: int = 12,
    model: str | None = None,
) -> ClipReport:
    """Follow boxes of its first frame (any file that `read_boxes` reads) through a clip: by an agent of trainer `ftmu`,
    or by a promptable video model. A second run takes up what is done.

    Writes OUT/masks/NAME.png (palette PNG of object ids, exclusive, every frame present), OUT/overlay.mp4,
    OUT/objects.json, and the contract shards OUT/samples, OUT/weak and OUT/labels.

    Raises:
        FileNotFoundError: no such clip, box file or agent. ValueError: unusable boxes, a clip without frames, or an
            agent and a model, or neither.
    """
    if (agent is None) == (model is None):
        raise ValueError("expected an artifact of trainer ftmu or a promptable video model, found both or neither")
    settings = {"model": model} if agent is None else {"agent": agent, "policy": policy}
    with working(out):
        return _label_clip(clip, boxes, out, settings, rate)


def _label_clip(clip: str, boxes: str, out: str, settings: dict[str, Any], rate: int) -> ClipReport:
    read = read_boxes(boxes)
    source = _source(clip)
    given = first_boxes(read, source, boxes)
    space = clip_space(given)
    map_units(ingest_stage(source, space), ingest_units(source, out, MOST_FRAMES + 1))
    rows = _frames(out, clip)
    _write_weak(out, rows, given)
    config = LabelConfig(
        labeler="video" if "agent" in settings else "prompted_video",
        label_space=space,
        samples=f"{out}/samples",
        weak=f"{out}/weak",
        settings=settings,
    )
    label(config, f"{out}/labels")
    names = {c.id: c.name for c in space.classes}
    with Listed(out) as files:
        files.write("objects.json", (json.dumps(names, indent=1) + "\n").encode())
        labelled = _write_masks(out, files, rows, space)
        files.write("overlay.mp4", encode_video(_overlays(out, rows, space), rate))
    return ClipReport(len(rows), labelled, tuple(names.values()))


def _source(clip: str) -> FolderSource | VideoSource:
    path = Path(clip)
    if path.is_dir():
        return FolderSource(root=clip, images="", masks=None, group_by="parent")
    if path.is_file():
        return VideoSource(root=clip, max_frames=MOST_FRAMES)
    raise FileNotFoundError(f"{clip}: expected a folder of frames or a video file, found none")


def _frames(out: str, clip: str) -> list[Row]:
    """The clip's Sample rows without pixels, in order.

    Raises:
        ValueError: no frame, more than one clip, or too many frames.
    """
    columns = ["sample_id", "group", "index", "height", "width", "provenance"]
    rows = [row for path in list_shards(f"{out}/samples") for row in read_shard(path, SAMPLE, columns).to_pylist()]
    groups = {row["group"] for row in rows}
    if len(groups) != 1 or len(rows) > MOST_FRAMES:
        raise ValueError(
            f"{clip}: expected 1 to {MOST_FRAMES} frames of one clip, found {len(rows)} frames in {len(groups)} folders"
        )
    return sorted(rows, key=lambda row: (row["index"] or 0, row["provenance"]["source_path"]))


def _write_weak(out: str, rows: Sequence[Row], given: Sequence[Box]) -> None:
    """One WEAK_LABEL row a frame; the first holds the boxes, clipped to the frame."""
    boxes = [one.row(number) for number, one in enumerate(given, start=1)]
    weak: list[Row] = [
        {"sample_id": row["sample_id"], "class_ids": [b["class_id"] for b in boxes], "boxes": [] if i else boxes}
        for i, row in enumerate(rows)
    ]
    name = shard_name(0)
    stamp = content_id(json.dumps(weak, sort_keys=True))
    write_shard(f"{out}/weak/{name}", WEAK_LABEL.table(weak), WEAK_LABEL, stage="boxes", fingerprint=stamp)


def _labels(out: str) -> dict[str, Row]:
    rows = [row for path in list_shards(f"{out}/labels") for row in read_shard(path, PSEUDO_LABEL).to_pylist()]
    return {row["sample_id"]: row for row in rows}


def _mask(found: Row, row: Row) -> Uint8Array:
    """The frame's object ids; all background where it has no label."""
    if found["mask"] is None:
        return np.zeros((row["height"], row["width"]), np.uint8)
    return decode_mask(found["mask"]["bytes"], row["sample_id"])


def _write_masks(out: str, files: Listed, rows: Sequence[Row], space: LabelSpace) -> int:
    labels = _labels(out)
    for row in rows:
        mask = _mask(labels[row["sample_id"]], row)
        files.write(f"masks/{_name(row)}.png", encode_mask(mask, space.palette))
    return sum(found["mask"] is not None for found in labels.values())


def _name(row: Row) -> str:
    path, _, frame = str(row["provenance"]["source_path"]).partition("#")
    return frame or Path(path).stem


def _overlays(out: str, rows: Sequence[Row], space: LabelSpace) -> Iterator[Uint8Array]:
    """The frames in order with the objects in the palette's colours."""
    from maskmill.pipelines.stages.evaluate import overlay

    labels = _labels(out)
    place = {row["sample_id"]: i for i, row in enumerate(rows)}
    images: dict[int, bytes] = {}
    for path in list_shards(f"{out}/samples"):
        for row in read_shard(path, SAMPLE, ["sample_id", "image"]).to_pylist():
            images[place[row["sample_id"]]] = row["image"]["bytes"]
    for number, row in enumerate(rows):
        mask = _mask(labels[row["sample_id"]], row)
        yield overlay(decode_image(images[number], row["sample_id"]), mask, space)
