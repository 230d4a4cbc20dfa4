"""Panoptic PNGs, whose colours are segment ids, to a label map and its instances."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Instance
from maskmill.data_contracts.label_files import LabelFile, decode_labels
from maskmill.data_contracts.rle import Runs, rows, runs_by_value
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.ingest.coco_draw import Drawing, Rules
from maskmill.pipelines.ingest.coco_values import flag, identity

Row = dict[str, Any]
Ids = NDArray[np.int32] | NDArray[np.int64]


def paint_segments(data: bytes, note: Row, path: str, max_pixels: int, rules: Rules) -> Drawing:
    """Label map and instances of a panoptic PNG: id = red + 256 green + 65536 blue, or grey itself; 0 = unlabelled.

    Raises:
        ContractError: ids that segments_info does not list, or lists twice.
    """
    known = _segments(note, rules)
    png = decode_labels(data, path, max_pixels)
    if png.lossy is not None:
        fix = "write the PNG again from its source"
        raise bad_annotation(rules.where, "a segment map stored without loss", f"{path} as {png.lossy}", fix)
    segments = _ids(png)
    canvas = np.full(segments.size, IGNORE, np.uint8)
    drawing = Drawing(np.zeros((0, 0), np.uint8))
    for segment, runs in runs_by_value(segments).items():
        if str(segment) in known:
            runs.paint(canvas, _take(known[str(segment)], runs, rules, drawing))
        elif segment != 0:
            raise _stranger(f"segment {segment} on {runs.area} pixels of {path}", known, png, rules)
    drawing.mask = rows(canvas, *segments.shape)
    return drawing


def _ids(png: LabelFile) -> Ids:
    """Segment ids of a grey map, or of colours (a palette's among them) whatever their transparency."""
    if png.colours is not None:
        return _packed(png.colours)
    values: Ids = np.zeros((0, 0), np.int32) if png.values is None else png.values
    if png.palette is None:
        return values
    table = np.zeros((256, 3), np.uint8)
    table[: len(png.palette)] = png.palette
    return _packed(table)[values]


def _packed(colours: NDArray[np.uint8]) -> Ids:
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    packed: Ids = red + (green << 8) + (blue << 16)
    return packed


def _segments(note: Row, rules: Rules) -> dict[str, Row]:
    """The segments of an annotation by id."""
    infos = note.get("segments_info")
    if not isinstance(infos, list):
        raise bad_annotation(rules.where, "segments_info as a list", f"{infos!r:.60}", "mend the JSON")
    known: dict[str, Row] = {}
    for number, info in enumerate(infos):
        given = info.get("id") if isinstance(info, dict) else None
        segment = identity(given)
        if segment is None or isinstance(given, str):
            there = f"{info!r:.60} at place {number}" + (", an id as text" if isinstance(given, str) else "")
            raise bad_annotation(rules.where, "segments with an id (a whole number)", there, "mend segments_info")
        if segment in known and known[segment] != info:
            raise bad_annotation(
                rules.where, "segment ids that occur once", f"id {segment} twice", "mend segments_info"
            )
        known[segment] = info
    return known


def _take(info: Row, runs: Runs, rules: Rules, drawing: Drawing) -> int:
    """Add one segment to the drawing; its mask value."""
    crowd, number = rules.is_crowd(info), identity(info.get("id"))
    if flag(info.get("iscrowd")):
        drawing.notes["iscrowd as ignore" if crowd else "iscrowd as objects"] += 1
    if crowd:
        return IGNORE
    value = rules.value(info)
    if value in rules.space.by_id:
        drawing.instances.append(Instance.of_runs(value, runs, source_id=number))
    return value


def _stranger(found: str, known: dict[str, Row], png: LabelFile, rules: Rules) -> Exception:
    """The error for an id that is not listed, with the likely cause."""
    fix = "mend the JSON or the PNG"
    if png.colours is not None:
        swapped = _packed(png.colours[..., 2::-1])
        if {str(i) for i in np.unique(swapped)} <= {"0", *known}:
            fix = "the channels are the wrong way round (BGR): cv2.imwrite(png, rgb[..., ::-1]) writes them right"
    return bad_annotation(rules.where, "segments that segments_info lists", found, fix)
