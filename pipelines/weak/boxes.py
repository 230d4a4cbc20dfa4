"""The one reader of boxes: VOC XML, COCO JSON, a JSON list or CSV; and WeakLabel rows of ingested photos from them."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskmill.data_contracts import LabelSpace, read_bytes
from maskmill.data_contracts.texts import TextError, parse_json
from maskmill.pipelines.core.settings import explain_errors
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.ingest.voc import parse_voc_xml
from maskmill.pipelines.weak.photos import photo_key, rows_by_photo, stem_of

COLUMNS = ("file", "class", "x0", "y0", "x1", "y1")
LISTED = '[{"file": "a.jpg", "name": "dog", "box": [x0, y0, x1, y1]}, …]'
FORMATS = f"a folder of VOC XML files, a COCO .json, a JSON list {LISTED} or a .csv"
NO_FILE = ""  # the photo of listed boxes that name none: whoever has one photo alone knows which is meant


@dataclass(frozen=True)
class Box:
    """One object: its class by name, and its box in pixels, zero-based, x1 and y1 exclusive."""

    name: str
    corners: tuple[float, float, float, float]

    def row(self, class_id: int) -> dict[str, Any]:
        """The entry in a WEAK_LABEL row."""
        return {"class_id": class_id, **dict(zip(COLUMNS[2:], self.corners, strict=True))}


class Listed(BaseModel):
    """One entry of a JSON list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = Field(
        default=None, description="path or name of the photo; may be left out where the list belongs to one clip"
    )
    name: str = Field(default="object", description="class of the object")
    box: tuple[float, float, float, float] = Field(description="x0, y0, x1, y1 in pixels; x1 and y1 are exclusive")


Boxes = dict[str, list[Box]]  # by photo: its path without the suffix, relative to the photos' folder
Rows = Iterator[tuple[str, list[Box]]]  # boxes with the photo that they are in


def read_boxes(path: str, *, difficult: bool = True) -> Boxes:
    """Boxes by photo: from a folder of VOC XML files (or one of them), a COCO instances file (.json), a JSON list like
    `LISTED`, where `file` may be missing (then they are those of `NO_FILE`) and so may `name`, or a CSV file (.csv)
    with the columns file, class, x0, y0, x1, y1. `difficult` says whether VOC's difficult objects count.

    Raises:
        FileNotFoundError: nothing there. ContractError: `bad_annotation` for a file that is none of these, an
            impossible box, or no box at all.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{path}: expected {FORMATS}, found none")
    suffix = ".xml" if place.is_dir() else place.suffix.lower()
    if suffix == ".xml":
        rows = _from_xml(place, difficult)
    else:
        rows = (_from_csv if suffix == ".csv" else _from_json)(read_bytes(path), path)
    found: Boxes = {}
    for photo, own in rows:
        found.setdefault(photo, []).extend(own)
    if not any(found.values()):
        raise bad_annotation(path, "at least one box", "none", f"give {FORMATS}")
    return found


def boxes_in(boxes: Boxes, photo: str) -> list[Box]:
    """The boxes of a photo: by its path without suffix, or, where the boxes name no folders, by its file name alone."""
    stem = stem_of(photo)
    return boxes.get(stem) or boxes.get(PurePosixPath(stem).name) or []


def _from_xml(place: Path, difficult: bool) -> Rows:
    files = sorted(place.rglob("*.xml")) if place.is_dir() else [place]
    if not files:
        raise FileNotFoundError(f"{place}: expected VOC annotations (*.xml), found none")
    folder = place if place.is_dir() else place.parent
    for path in files:
        objects = parse_voc_xml(path.read_bytes(), str(path))
        own = [Box(o.name, o.box) for o in objects if difficult or not o.difficult]
        yield stem_of(path.relative_to(folder).as_posix()), own


def _from_csv(data: bytes, where: str) -> Rows:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    try:
        if missing := set(COLUMNS) - set(rows.fieldnames or ()):
            header = ", ".join(COLUMNS)
            raise bad_annotation(where, f"columns {header}", f"no {', '.join(sorted(missing))}", "add a header")
        for number, row in enumerate(rows, start=2):
            line = f"{where}, line {number}"
            yield photo_key(row["file"], line), [_box(row["class"], [row[name] for name in COLUMNS[2:]], line)]
    except csv.Error as error:
        raise bad_annotation(where, "a CSV file", f"{type(error).__name__}: {error}", "mend the file") from error


def _from_json(data: bytes, where: str) -> Rows:
    try:
        top = parse_json(data)
    except TextError as error:
        raise _no_boxes(where, str(error)) from error
    return _from_list(top, where) if isinstance(top, list) else _from_coco(top, where)


def _from_list(entries: list[Any], where: str) -> Rows:
    for number, entry in enumerate(entries):
        line = f"{where}, box {number}"
        try:
            given = Listed.model_validate(entry)
        except ValidationError as error:
            raise bad_annotation(
                line, f"a JSON list {LISTED}", explain_errors(error).strip(), "mend the JSON"
            ) from error
        photo = NO_FILE if given.file is None else photo_key(given.file, line)
        yield photo, [_box(given.name, list(given.box), line)]


def _from_coco(top: Any, where: str) -> Rows:
    try:
        files = {image["id"]: str(image["file_name"]) for image in top["images"]}
        names = {category["id"]: str(category["name"]) for category in top["categories"]}
        notes = [note for note in top["annotations"] if not note.get("iscrowd")]
        rows = [(files[note["image_id"]], names[note["category_id"]], list(note["bbox"])) for note in notes]
    except (AttributeError, KeyError, TypeError) as error:
        raise _no_boxes(where, f"{type(error).__name__}: {error}") from error
    for file, name, bbox in rows:
        line = f"{where}, {file}"
        if len(bbox) != 4 or not all(isinstance(value, int | float) for value in bbox):
            raise bad_annotation(line, "a bbox [x, y, width, height]", f"{bbox}", "mend the box")
        x, y, width, height = bbox
        yield photo_key(file, line), [_box(name, [x, y, x + width, y + height], line)]


def _no_boxes(where: str, found: str) -> Exception:
    expected = f"a COCO file of images, categories and annotations with bbox, or a JSON list {LISTED}"
    return bad_annotation(where, expected, found, "mend the JSON; a .csv and VOC XML files are read as well")


def _box(name: str | None, corners: list[Any], where: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(value) for value in corners)
    except (TypeError, ValueError):
        x0 = y0 = x1 = y1 = math.nan
    word = (name or "").strip()
    if not word or not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 >= x1 or y0 >= y1:
        raise bad_annotation(where, "a class and x0 < x1, y0 < y1", f"{name!r} with {corners}", "mend the box")
    return Box(word, (x0, y0, x1, y1))


def class_names(boxes: Boxes) -> list[str]:
    """All class names, in alphabetical order."""
    return sorted({box.name for own in boxes.values() for box in own})


def write_box_labels(samples: str, boxes: Boxes, space: LabelSpace, out_dir: str) -> int:
    """WeakLabel shards in `out_dir`, a row for every Sample row with its photo's boxes; returns photos with a box.

    Raises:
        KeyError: a class that the label space lacks; lists those that it has.
    """

    def hints(own: list[Box]) -> dict[str, Any]:
        values = [box.row(space.find(box.name).id) for box in own]
        return {"class_ids": sorted({int(value["class_id"]) for value in values}), "boxes": values}

    return rows_by_photo(samples, boxes, hints, out_dir, stage="boxes", stamp=space.fingerprint)
