"""Points on photos: a click an object, with its class; and WeakLabel rows of ingested photos from them."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.data_contracts import LabelSpace, read_bytes
from maskmill.data_contracts.texts import TextError, parse_json
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.weak.photos import photo_key, rows_by_photo

COLUMNS = ("file", "class", "x", "y")
FORMATS = 'CSV with the columns file, class, x, y, or JSON [{"file": "a.jpg", "name": "dog", "point": [x, y]}, …]'


@dataclass(frozen=True)
class Point:
    """One click: a class by name, and a place in pixels, zero-based."""

    name: str
    x: float
    y: float


Points = dict[str, list[Point]]  # by photo: its path without the suffix


def read_points(path: str) -> Points:
    """Points by photo from a CSV (.csv) or JSON file.

    Raises:
        FileNotFoundError: nothing there. ContractError: `bad_annotation` for a file that is neither, an impossible
            point, or no point at all.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected {FORMATS}, found none")
    data = read_bytes(path)
    found: Points = {}
    for file, name, x, y, where in _csv(data, path) if path.lower().endswith(".csv") else _json(data, path):
        found.setdefault(photo_key(file, where), []).append(_point(name, x, y, where))
    if not found:
        raise bad_annotation(path, "at least one point", "none", f"give {FORMATS}")
    return found


def _csv(data: bytes, where: str) -> list[tuple[Any, ...]]:
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    try:
        if missing := set(COLUMNS) - set(rows.fieldnames or ()):
            raise bad_annotation(where, f"columns {', '.join(COLUMNS)}", f"no {', '.join(sorted(missing))}", "add them")
        return [
            (row["file"], row["class"], row["x"], row["y"], f"{where}, line {number}")
            for number, row in enumerate(rows, start=2)
        ]
    except csv.Error as error:
        raise bad_annotation(where, "a CSV file", str(error), "mend the file") from error


def _json(data: bytes, where: str) -> list[tuple[Any, ...]]:
    try:
        top = parse_json(data)
    except TextError as error:
        raise bad_annotation(where, "JSON", str(error), f"give {FORMATS}") from error
    fits = isinstance(top, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("point"), list) and len(entry["point"]) == 2 for entry in top
    )
    if not fits:
        raise bad_annotation(where, "a list of points", repr(top)[:80], f"give {FORMATS}")
    return [(e.get("file"), e.get("name"), *e["point"], f"{where}, point {n}") for n, e in enumerate(top)]


def _point(name: Any, x: Any, y: Any, where: str) -> Point:
    try:
        place = float(x), float(y)
    except (TypeError, ValueError):
        place = math.nan, math.nan
    word = name.strip() if isinstance(name, str) else ""
    if not word or not all(math.isfinite(v) and v >= 0 for v in place):
        raise bad_annotation(where, "a class, x and y in pixels", f"{name!r} at {x!r}, {y!r}", "mend the point")
    return Point(word, *place)


def point_names(points: Points) -> list[str]:
    """All class names, in alphabetical order."""
    return sorted({point.name for own in points.values() for point in own})


def write_point_labels(samples: str, points: Points, space: LabelSpace, out_dir: str) -> int:
    """WeakLabel shards in `out_dir`, a row for every Sample row with its photo's points; returns photos with a point.

    Raises:
        KeyError: a class that the label space lacks; lists those that it has.
    """

    def hints(own: list[Point]) -> dict[str, Any]:
        values = [{"class_id": space.find(p.name).id, "x": p.x, "y": p.y} for p in own]
        return {"class_ids": sorted({int(v["class_id"]) for v in values}), "points": values}

    return rows_by_photo(samples, points, hints, out_dir, stage="points", stamp=space.fingerprint)
