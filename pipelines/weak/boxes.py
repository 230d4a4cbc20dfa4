"""Boxes from VOC XML files, COCO JSON or a CSV file, as WeakLabel rows of ingested photos."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from maskmill.data_contracts import (
    SAMPLE,
    WEAK_LABEL,
    LabelSpace,
    content_id,
    list_shards,
    read_bytes,
    read_shard,
    write_shard,
)
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.ingest.voc import parse_voc_xml

COLUMNS = ("file", "class", "x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Box:
    """One object: its class by name, and its box in pixels, zero-based, x1 and y1 exclusive."""

    name: str
    corners: tuple[float, float, float, float]


Boxes = dict[str, list[Box]]  # by photo: its path without the suffix, relative to the photos' folder


def read_boxes(path: str, *, difficult: bool = True) -> Boxes:
    """Boxes by photo: from a folder of VOC XML files, a COCO instances file (.json), or a CSV file (.csv) with the
    columns file, class, x0, y0, x1, y1. `difficult` says whether VOC's difficult objects count.

    Raises:
        FileNotFoundError: nothing there. ContractError: a file that is none of these, or an impossible box.
    """
    place = Path(path)
    if place.is_dir():
        return _from_xml(place, difficult)
    if not place.is_file():
        raise FileNotFoundError(f"{path}: expected a folder of VOC XML files, a COCO .json or a .csv file, found none")
    data = read_bytes(path)
    found: Boxes = {}
    for file, box in (_from_csv if place.suffix.lower() == ".csv" else _from_coco)(data, path):
        found.setdefault(_stem(file), []).append(box)
    return found


def _stem(file: str) -> str:
    return str(PurePosixPath(file.replace("\\", "/")).with_suffix(""))


def _from_xml(folder: Path, difficult: bool) -> Boxes:
    found: Boxes = {}
    for path in sorted(folder.rglob("*.xml")):
        objects = parse_voc_xml(path.read_bytes(), str(path))
        own = [Box(o.name, o.box) for o in objects if difficult or not o.difficult]
        found[_stem(path.relative_to(folder).as_posix())] = own
    if not found:
        raise FileNotFoundError(f"{folder}: expected VOC annotations (*.xml), found none")
    return found


def _from_csv(data: bytes, where: str) -> Iterator[tuple[str, Box]]:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    if missing := set(COLUMNS) - set(rows.fieldnames or ()):
        raise bad_annotation(where, f"columns {', '.join(COLUMNS)}", f"no {', '.join(sorted(missing))}", "add a header")
    for number, row in enumerate(rows, start=2):
        yield row["file"], _box(row["class"], [row[name] for name in COLUMNS[2:]], f"{where}, line {number}")


def _from_coco(data: bytes, where: str) -> Iterator[tuple[str, Box]]:
    try:
        top: Any = json.loads(data)
        files = {image["id"]: str(image["file_name"]) for image in top["images"]}
        names = {category["id"]: str(category["name"]) for category in top["categories"]}
        notes = [note for note in top["annotations"] if not note.get("iscrowd")]
        rows = [(files[note["image_id"]], names[note["category_id"]], list(note["bbox"])) for note in notes]
    except (ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise bad_annotation(where, "a COCO file of images, categories and bbox", found, "mend the JSON") from error
    for file, name, bbox in rows:
        x, y, width, height = [*bbox, *[math.nan] * 4][:4]
        yield file, _box(name, [x, y, x + width, y + height], f"{where}, {file}")


def _box(name: str, corners: list[Any], where: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(value) for value in corners)
    except (TypeError, ValueError):
        x0 = y0 = x1 = y1 = math.nan
    if not name or not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 >= x1 or y0 >= y1:
        raise bad_annotation(where, "a class and x0 < x1, y0 < y1", f"{name!r} with {corners}", "mend the box")
    return Box(name.strip(), (x0, y0, x1, y1))


def class_names(boxes: Boxes) -> list[str]:
    """All class names, in alphabetical order."""
    return sorted({box.name for own in boxes.values() for box in own})


def write_box_labels(samples: str, boxes: Boxes, space: LabelSpace, out_dir: str) -> int:
    """WeakLabel shards in `out_dir`, a row for every Sample row with its photo's boxes; returns photos with a box.

    Photos are found by path without suffix, or, where the boxes name no folders, by file name alone.

    Raises:
        KeyError: a class that the label space lacks; lists those that it has.
    """
    hit = 0
    for path in list_shards(samples):
        rows = []
        for sample in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist():
            stem = _stem(str(sample["provenance"]["source_path"]))
            own = boxes.get(stem) or boxes.get(PurePosixPath(stem).name) or []
            values = [
                {"class_id": space.find(b.name).id, **dict(zip(("x0", "y0", "x1", "y1"), b.corners, strict=True))}
                for b in own
            ]
            ids = sorted({int(value["class_id"]) for value in values})
            rows.append({"sample_id": sample["sample_id"], "class_ids": ids, "boxes": values})
            hit += bool(values)
        stamp = content_id(space.fingerprint, json.dumps(rows, sort_keys=True))
        target = f"{out_dir.rstrip('/')}/{Path(path).name}"
        write_shard(target, WEAK_LABEL.table(rows), WEAK_LABEL, stage="boxes", fingerprint=stamp)
    return hit
