"""A COCO file, read piece by piece: images and annotations by image id, categories, and how the file uses flags."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from maskmill.data_contracts import Problem, storable
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.ingest.coco_masks import is_empty, is_runs
from maskmill.pipelines.ingest.coco_values import COCO_CROWDS, MAKER, flag, identity
from maskmill.pipelines.ingest.files import Root
from maskmill.pipelines.ingest.spill import Spill, json_items

Row = dict[str, Any]
ARRAYS = frozenset(("images", "annotations", "categories"))
MEND = "mend the JSON, or remove the entry"


@dataclass
class Catalogue:
    """What a COCO file holds. `faults` are entries that belong to no image, by their place in the file."""

    images: Spill = field(default_factory=Spill)  # by id
    notes: Spill = field(default_factory=Spill)  # by image id
    ids_by_name: Spill = field(default_factory=Spill)  # image ids by file name
    names: dict[str, list[str]] = field(default_factory=dict)  # of categories by id; more than one is a clash
    faults: Spill = field(default_factory=Spill)
    seen: Counter[str] = field(default_factory=Counter)  # objects by flag and form

    @property
    def crowds(self) -> Literal["objects", "ignore", "reject"]:
        """What `iscrowd: 1` means in this file.

        Objects where no object goes without it; crowds where COCO's or our own crowds are among them, or where the
        flag does not go with the form (run lengths without it, polygons with it). What is left are files whose run
        lengths all have the flag and whose polygons all have not: COCO writes crowds so, and other tools every object
        with holes or several parts. Nobody can tell those two apart.
        """
        if self.seen["known"]:
            return "ignore"
        if not self.seen["plain polygon"] + self.seen["plain runs"]:
            return "objects"
        return "ignore" if self.seen["plain runs"] + self.seen["marked polygon"] else "reject"

    def take(self, key: str, number: int, item: Any) -> None:
        """Add element `number` of an array of the file."""
        place = f"#{key}[{number}]"
        if not isinstance(item, dict):
            self._fault(place, f"an object in {key}", f"{json.dumps(item):.60} at place {number}")
        elif key == "images":
            self._image(place, item)
        elif key == "annotations":
            self._note(place, item)
        else:
            self._category(item)

    def _fault(self, place: str, expected: str, found: str) -> None:
        problem = bad_annotation(place, expected, found, MEND).problem
        self.faults.add([(place, [problem.expected, problem.found, problem.fix])])

    def _image(self, place: str, item: Row) -> None:
        if (number := identity(item.get("id"))) is None:
            self._fault(place, "an image with an id", f"{json.dumps(item):.80}")
            return
        self.images.add([(number, item)])
        if isinstance(name := item.get("file_name"), str):
            self.ids_by_name.add([(plain_path(name), number)])

    def _note(self, place: str, item: Row) -> None:
        if (number := identity(item.get("image_id"))) is None:
            self._fault(place, "an annotation with an image_id", f"{json.dumps(item):.80}")
            return
        self.notes.add([(number, item)])
        segments = item.get("segments_info")
        if isinstance(segments, list):
            for one in segments:
                self._count(one)
        elif not is_empty(item.get("segmentation")):
            self._count(item)

    def _count(self, note: Any) -> None:
        if not isinstance(note, dict):
            return
        marked, number = flag(note.get("iscrowd")), identity(note.get("id"))
        if marked and number is not None and number.isdecimal() and int(number) >= COCO_CROWDS:
            self.seen["known"] += 1
        form = "runs" if is_runs(note.get("segmentation")) else "polygon"
        self.seen[f"{'marked' if marked else 'plain'} {form}"] += 1

    def _category(self, item: Row) -> None:
        if (number := identity(item.get("id"))) is None:
            return
        name = storable(str(item.get("name")))
        if name not in (names := self.names.setdefault(number, [])):
            names.append(name)

    def problems(self) -> Iterator[tuple[str, Problem]]:
        """Place and problem of entries that belong to no image."""
        for place, (expected, found, fix) in self.faults:
            yield place, bad_annotation(place, expected, found, fix).problem


def read_catalogue(root: Root, path: str) -> Catalogue:
    """Read a COCO file.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no JSON object; says where.
    """
    found, numbers = Catalogue(), Counter[str]()
    try:
        with root.text(path) as handle:
            for key, item in json_items(handle, ARRAYS):
                if key in ARRAYS:
                    found.take(key, numbers[key], item)
                    numbers[key] += 1
                elif key == "info" and isinstance(item, dict) and item.get("description") == MAKER:
                    found.seen["known"] += 1
    except ValueError as error:
        if "found '[" not in str(error):
            raise
        raise ValueError(f"{error}. A list of results names no images: join it with its annotation file") from error
    return found


def plain_path(name: str) -> str:
    """A file name as the JSON has it, in one form: slashes forward, no "./" before it, composed letters."""
    path = unicodedata.normalize("NFC", storable(name)).replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path
