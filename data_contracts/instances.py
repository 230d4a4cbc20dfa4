"""Objects told apart: what stands beside a label map where somebody knows which pixels belong together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts.blocks import histogram
from maskmill.data_contracts.errors import Problem, Reason
from maskmill.data_contracts.images import IGNORE, Uint8Array
from maskmill.data_contracts.label_files import decode_mask
from maskmill.data_contracts.labels import LabelSpace
from maskmill.data_contracts.rle import Box, Runs, columns

MAX_OBJECTS = 50_000  # on one photo; more are a mistake, or an attack
FIX = "ingest or label the sample again; whoever writes rows by hand draws label map and instances from the same masks"


@dataclass(frozen=True, eq=False)
class Instance:
    """One object: its class, its box (x0, y0, x1, y1) in pixels, x0 <= x < x1, and its pixels, as run lengths.

    Pixels are the object's own, those under other objects among them; without pixels only the box is known, and the
    label map says ignore there. `crowd` marks a region of many objects, which a label map has as ignore. `source_id` is
    the id in the source's own files.
    """

    class_id: int
    box: Box
    runs: Runs | None
    score: float | None = None
    crowd: bool = False
    source_id: str | None = None

    @classmethod
    def of(cls, class_id: int, mask: NDArray[np.bool_], **more: Any) -> "Instance":
        """An object by its pixels, bool (H, W), at least one; the box is theirs."""
        return cls.of_runs(class_id, Runs.of(mask), **more)

    @classmethod
    def of_runs(cls, class_id: int, runs: Runs, **more: Any) -> "Instance":
        """An object by its pixels, at least one; the box is theirs."""
        return cls(class_id, runs.box, runs, **more)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The object's pixels, bool (H, W), drawn each time."""
        return None if self.runs is None else self.runs.draw()

    def row(self) -> dict[str, Any]:
        """The entry in column `instances`; the mask is COCO's compressed run lengths."""
        box = dict(zip(("x0", "y0", "x1", "y1"), self.box, strict=True))
        rle = None if self.runs is None else self.runs.text
        rest = {"score": self.score, "crowd": self.crowd, "source_id": self.source_id}
        return {"class_id": self.class_id, "box": box, "rle": rle, **rest}

    @classmethod
    def read(cls, entry: Mapping[str, Any], height: int, width: int) -> "Instance":
        """The object of an entry in column `instances` of an image of this size.

        Raises:
            ValueError: run lengths of no mask of this size.
        """
        box = entry["box"]
        runs = None if entry["rle"] is None else Runs.read(entry["rle"], height, width)
        corners = (box["x0"], box["y0"], box["x1"], box["y1"])
        return cls(entry["class_id"], corners, runs, entry["score"], bool(entry["crowd"]), entry["source_id"])


def upgrade_entries(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Entries of the older column `instances`, whose masks were PNG files, as entries of this one."""
    if entries is None:
        return None
    found = []
    for entry in entries:
        runs = Runs.of(decode_mask(entry["mask"]["bytes"], "instance") > 0)
        corners = tuple(entry["box"][side] for side in ("x0", "y0", "x1", "y1"))
        found.append(Instance(entry["class_id"], corners, runs).row())
    return found


def read_instances(row: Mapping[str, Any], height: int, width: int) -> list[Instance] | None:
    """The objects of a Sample or PseudoLabel row; None where nobody told them apart.

    Raises:
        ValueError: run lengths of no mask of this size.
    """
    entries = row.get("instances")
    return None if entries is None else [Instance.read(entry, height, width) for entry in entries]


def check_instances(instances: Iterable[Instance], mask: Uint8Array, space: LabelSpace) -> Problem | None:
    """First thing wrong with the objects beside a label map uint8 (H, W), or None.

    Every pixel of a class belongs to an object of that class, and every pixel of an object shows its class, that of
    another object there, or ignore.
    """
    objects = list(instances)
    for number, one in enumerate(objects):
        if (fault := _alone(one, mask, space)) is not None:
            return _wrong(number, one, *fault)
    flat = columns(mask)
    shown = flat == IGNORE
    for class_id in {one.class_id for one in objects} | set(np.flatnonzero(histogram(flat)).tolist()):
        own = flat == class_id
        cover = _cover(objects, class_id, flat.size)
        if class_id in space.by_id and (bare := int((own & ~cover).sum())):
            expected = f"every pixel of class {space.by_id[class_id].name} in one of its instances"
            return Problem(Reason.BAD_ANNOTATION, expected, f"{bare} pixels in none", FIX)
        shown |= own & cover
    return _stray(objects, shown)


def _cover(objects: list[Instance], class_id: int, size: int) -> NDArray[np.bool_]:
    """The pixels of all objects of a class, crowds left out, column by column."""
    cover = np.zeros(size, dtype=bool)
    for one in objects:
        if one.runs is not None and not one.crowd and one.class_id == class_id:
            one.runs.paint(cover, True)
    return cover


def _stray(objects: list[Instance], shown: NDArray[np.bool_]) -> Problem | None:
    """The first object with pixels where the label map shows no object."""
    if shown.all():
        return None
    before = np.concatenate((np.zeros(1, np.int32), np.cumsum(~shown, dtype=np.int32)))  # strays up to each pixel
    for number, one in enumerate(objects):
        if one.runs is None or one.crowd:
            continue
        starts, ends = one.runs.spans
        if stray := int((before[ends] - before[starts]).sum()):
            expected = "pixels that the label map shows as an instance's class"
            return _wrong(number, one, expected, f"{stray} that are not")
    return None


def _alone(one: Instance, mask: Uint8Array, space: LabelSpace) -> tuple[str, str] | None:
    """What one object gets wrong by itself: expectation and finding."""
    if one.class_id not in space.by_id:
        return f"a class of {space.name}", f"class id {one.class_id}"
    if one.runs is not None and (one.runs.height, one.runs.width) != mask.shape:
        return f"a mask of {mask.shape[1]}x{mask.shape[0]}", f"{one.runs.width}x{one.runs.height}"
    x0, y0, x1, y1 = one.box
    if not (x0 < x1 and y0 < y1):
        return "a box with x0 < x1, y0 < y1", str(one.box)
    return None


def _wrong(number: int, one: Instance, expected: str, found: str) -> Problem:
    name = "" if one.source_id is None else f" ({one.source_id} in the source)"
    return Problem(Reason.BAD_ANNOTATION, f"instance {number}{name} with {expected}", found, FIX)
