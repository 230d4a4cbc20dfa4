"""labelme: a JSON file a photo, with shapes in pixels; the photo beside it, or inside."""

import base64
import binascii
import json
import math
import posixpath
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.data_contracts.label_files import decode_labels
from maskmill.data_contracts.rle import pack_mask
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.ingest.base import Entry, RawSample, Source, bad_annotation
from maskmill.pipelines.ingest.class_files import Named, space_of
from maskmill.pipelines.ingest.files import File, FileIndex, Root, without_suffix
from maskmill.pipelines.ingest.shapes import Note, draw_shapes, empty_photo, sized
from maskmill.pipelines.ingest.spill import Spill

CORNERS = 64  # of the polygon that a circle is drawn as
FAR = 1e9  # no photo has pixels there
JSONS = frozenset((".json",))


class LabelmeSource(Source):
    """JSON files anywhere under `folder`, each with the path of its photo (relative to the file, or by its name beside
    it) or with the photo itself. Polygons, rectangles, circles and masks are drawn; shapes of one label and `group_id`
    are one object. `others` says what becomes of points and lines, which have no area.
    """

    kind: Literal["labelme"] = Field(default="labelme", description="kind of the source")
    folder: str = Field(default="", description="folder under the root that is searched; empty = all of it")
    others: Literal["reject", "skip"] = Field(
        default="reject", description="points and lines, which have no area: reject the sample, or skip them"
    )

    def entries(self) -> Iterator[Entry]:
        root = self.open_root()
        images, notes, used = root.index(self.folder), root.index(self.folder, JSONS), Spill()
        for _, note in notes:
            entry = self._entry(root, note, images)
            used.add([(entry.key, 1)])
            yield entry
        for _, image in images:
            if not used.get(image.path):
                yield self._alone(image)

    def _entry(self, root: Root, note: File, images: FileIndex) -> Entry:
        """The entry of one JSON file; its photo is the key where there is one."""
        if note.problem is not None:
            return Entry(note.path, note.stamp, problem=note.problem)
        try:
            path = str(read_json(root, note.path).get("imagePath") or "").replace("\\", "/")
        except ValueError as error:
            problem = bad_annotation(note.path, "a labelme file", str(error), "write it again").problem
            return Entry(note.path, note.stamp, problem=problem)
        image = _photo(path, note.path, images)
        key = note.path if image is None else image.path
        stamp = json.dumps([note.stamp, None if image is None else image.stamp])
        fields = {"note": note.path, "image": None if image is None else image.path}
        return Entry(key, stamp, fields, None if image is None else image.problem)

    def _alone(self, image: File) -> Entry:
        """A photo that no JSON file speaks of."""
        return Entry(image.path, image.stamp, {"note": None, "image": image.path}, image.problem or empty_photo(self))

    def own_space(self) -> LabelSpace:
        """The labels of all shapes, sorted and numbered 1, 2, …"""
        root, labels = self.open_root(), set()
        for _, note in root.index(self.folder, JSONS):
            try:
                shapes = read_json(root, note.path).get("shapes")
            except ValueError:
                continue  # ingest says which file it is
            labels |= {str(s.get("label")) for s in shapes or () if isinstance(s, dict)}
        named: list[Named] = [(number, name, None) for number, name in enumerate(sorted(labels), 1)]
        return space_of(self.space_name, named, f"{self.root}: the labels of its shapes", keep_ids=False)

    def load(self, entry: Entry, space: LabelSpace) -> RawSample:
        root, path = self.reader(), entry.fields["note"]
        try:
            note = {} if path is None else read_json(root, path)
        except ContractError:
            raise
        except ValueError as error:
            raise bad_annotation(path, "a labelme file", str(error), "write it again") from error
        image = _inside(note, path) if entry.fields["image"] is None else root.read(entry.fields["image"])
        height, width = sized(image, entry.key, self.max_pixels).upright
        stated = (note.get("imageHeight"), note.get("imageWidth"))
        if path is not None and None not in stated and stated != (height, width):
            expected = f"shapes on a photo of {width}x{height}"
            problem = Problem(Reason.SIZE_MISMATCH, expected, f"{stated[1]}x{stated[0]}", "draw them on this photo")
            raise _at(path, problem)
        return draw_shapes(image, self._notes(note, path or "", (height, width)), (height, width), entry.key, space)

    def _notes(self, note: dict[str, Any], path: str, size: tuple[int, int]) -> list[Note]:
        shapes = note.get("shapes") or []
        if not isinstance(shapes, list):
            raise bad_annotation(path, "a list of shapes", repr(shapes)[:60], "write the file again")
        groups: dict[tuple[str, object], Note] = {}
        for number, shape in enumerate(shapes):
            where = f"{path}, shape {number}"
            rings = self._rings(shape, where, size)
            if rings is None:
                continue
            group = shape.get("group_id")
            key = (str(shape.get("label")), f"shape {number}" if group is None else json.dumps(group))
            mine = groups.setdefault(key, {"id": f"of {where}", "name": key[0], "segmentation": []})
            mine["segmentation"] += rings
        return list(groups.values())

    def _rings(self, shape: Any, where: str, size: tuple[int, int]) -> list[Any] | None:
        """A shape as polygons or run lengths; None for one without an area that is to be left out."""
        points = shape.get("points") if isinstance(shape, dict) else None
        if not isinstance(points, list) or not all(map(_is_point, points)) or not isinstance(shape.get("label"), str):
            raise bad_annotation(where, "a label and points [x, y]", json.dumps(shape)[:60], "mend the shape")
        kind = shape.get("shape_type") or "polygon"
        match kind, points:
            case "polygon", [_, _, _, *_]:
                return [[value for point in points for value in point]]
            case "rectangle", [[x0, y0], [x1, y1]]:
                return [[x0, y0, x1, y0, x1, y1, x0, y1]]
            case "circle", [[x, y], [on_x, on_y]]:
                return [_circle(x, y, math.hypot(on_x - x, on_y - y))]
            case "mask", [[x0, y0], *_]:
                return [_mask(shape.get("mask"), round(x0), round(y0), size, where)]
        if self.others == "skip" and kind in ("point", "points", "line", "linestrip"):
            return None
        fix = "draw an outline, remove the shape, or set source.others: skip to leave points and lines out"
        found = f"a {kind} of {len(points)} points"
        raise bad_annotation(where, "a polygon, rectangle, circle or mask", found, fix)


def read_json(root: Root, path: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: there is none; says what is there. ContractError: the file cannot be read.
    """
    found = parse_json(root.read(path, Reason.BAD_ANNOTATION))
    if not isinstance(found, dict):
        raise ValueError(f"a JSON {type(found).__name__}")
    return found


def _photo(path: str, note: str, images: FileIndex) -> File | None:
    """The photo that a JSON file means: at its path from there, of its name beside it, or of the file's own stem."""
    folder = posixpath.dirname(images.inside(note))
    there = posixpath.normpath(posixpath.join(folder, path))
    beside = posixpath.join(folder, posixpath.basename(path))
    found = next((file for name in (there, beside) if path and (file := images.find_path(name)) is not None), None)
    own = images.find(without_suffix(images.inside(note)))
    return found or (own[0] if len(own) == 1 else None)


def _inside(note: dict[str, Any], path: str) -> bytes:
    data = note.get("imageData")
    if not isinstance(data, str) or not data:
        fix = "put the photo beside the JSON file, or mend imagePath"
        problem = Problem(Reason.MISSING_IMAGE, f"a photo {note.get('imagePath')!r}", "none, and no imageData", fix)
        raise _at(path, problem)
    return _decoded(data, f"{path}, imageData")


def _decoded(data: object, where: str) -> bytes:
    try:
        return base64.b64decode(str(data), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_annotation(where, "base64", f"{data!r:.40}", "write the file again") from error


def _mask(data: object, left: int, top: int, size: tuple[int, int], where: str) -> dict[str, Any]:
    """The mask of a shape, a PNG in its box, as run lengths over the photo."""
    height, width = size
    values = decode_labels(_decoded(data, where), where, height * width).values
    if values is None:
        raise bad_annotation(where, "a mask as grey PNG in base64", "colours", "write the file again")
    pixels = values > 0
    whole = np.zeros(size, dtype=bool)
    if top < 0 or left < 0 or top + pixels.shape[0] > height or left + pixels.shape[1] > width:
        found = f"{pixels.shape[1]}x{pixels.shape[0]} at {left}, {top}"
        raise bad_annotation(where, f"a mask within {width}x{height}", found, "mend the shape")
    whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return {"size": [height, width], "counts": pack_mask(whole)}


def _circle(x: float, y: float, radius: float) -> list[float]:
    angles = [2 * math.pi * k / CORNERS for k in range(CORNERS)]
    return [value for a in angles for value in (x + radius * math.cos(a), y + radius * math.sin(a))]


def _is_point(point: object) -> bool:
    """Whether this is [x, y]; NaN, infinity and numbers of hundreds of digits are none."""
    return (
        isinstance(point, list) and len(point) == 2 and all(isinstance(v, int | float) and abs(v) < FAR for v in point)
    )


def _at(where: str, problem: Problem) -> ContractError:
    return ContractError(where, problem)
