"""Objects told apart: what stands beside a label map where somebody knows which pixels belong together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts.errors import Problem, Reason
from maskmill.data_contracts.images import IGNORE, Uint8Array
from maskmill.data_contracts.label_files import decode_mask
from maskmill.data_contracts.labels import LabelSpace
from maskmill.data_contracts.rle import pack_mask, unpack_mask

Box = tuple[float, float, float, float]
FIX = "ingest or label the sample again; whoever writes rows by hand draws label map and instances from the same masks"


@dataclass(frozen=True, eq=False)
class Instance:
    """One object: its class, its box (x0, y0, x1, y1) in pixels, x0 <= x < x1, and its pixels, bool (H, W).

    Pixels are the object's own, those under other objects among them; without pixels only the box is known, and the
    label map says ignore there. `crowd` marks a region of many objects, which a label map has as ignore. `source_id` is
    the id in the source's own files.
    """

    class_id: int
    box: Box
    mask: NDArray[np.bool_] | None
    score: float | None = None
    crowd: bool = False
    source_id: str | None = None

    @classmethod
    def of(cls, class_id: int, mask: NDArray[np.bool_], **more: Any) -> "Instance":
        """An object by its pixels, at least one; the box is theirs."""
        return cls(class_id, mask_box(mask), mask, **more)

    def row(self) -> dict[str, Any]:
        """The entry in column `instances`; the mask is COCO's compressed run lengths."""
        box = dict(zip(("x0", "y0", "x1", "y1"), self.box, strict=True))
        rle = None if self.mask is None else pack_mask(self.mask)
        rest = {"score": self.score, "crowd": self.crowd, "source_id": self.source_id}
        return {"class_id": self.class_id, "box": box, "rle": rle, **rest}

    @classmethod
    def read(cls, entry: Mapping[str, Any], height: int, width: int) -> "Instance":
        """The object of an entry in column `instances` of an image of this size.

        Raises:
            ValueError: run lengths of no mask of this size.
        """
        box = entry["box"]
        mask = None if entry["rle"] is None else unpack_mask(entry["rle"], height, width)
        corners = (box["x0"], box["y0"], box["x1"], box["y1"])
        return cls(entry["class_id"], corners, mask, entry["score"], bool(entry["crowd"]), entry["source_id"])


def mask_box(mask: NDArray[np.bool_]) -> Box:
    """The box around a mask's pixels; it has at least one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def upgrade_entries(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Entries of the older column `instances`, whose masks were PNG files, as entries of this one."""
    if entries is None:
        return None
    found = []
    for entry in entries:
        mask = decode_mask(entry["mask"]["bytes"], "instance") > 0
        corners = tuple(entry["box"][side] for side in ("x0", "y0", "x1", "y1"))
        found.append(Instance(entry["class_id"], corners, mask).row())
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
    ignored, covers = mask == IGNORE, _covers(objects, mask.shape)
    for class_id in np.flatnonzero(np.bincount(mask.ravel())):
        cover = covers.get(int(class_id))
        bare = int(((mask == class_id) & ~(False if cover is None else cover)).sum())
        if int(class_id) in space.by_id and bare:
            expected = f"every pixel of class {space.by_id[int(class_id)].name} in one of its instances"
            return Problem(Reason.BAD_ANNOTATION, expected, f"{bare} pixels in none", FIX)
    shown = ignored.copy()
    for class_id, cover in covers.items():
        shown |= cover & (mask == class_id)
    for number, one in enumerate(objects):
        if one.mask is not None and not one.crowd and (stray := int((one.mask & ~shown).sum())):
            return _wrong(
                number, one, "pixels that the label map shows as an instance's class", f"{stray} that are not"
            )
    return None


def _covers(objects: list[Instance], shape: tuple[int, ...]) -> dict[int, NDArray[np.bool_]]:
    """The pixels of all objects, crowds left out, by class."""
    covers: dict[int, NDArray[np.bool_]] = {}
    for one in objects:
        if one.mask is not None and not one.crowd:
            covers[one.class_id] = covers.get(one.class_id, np.zeros(shape, dtype=bool)) | one.mask
    return covers


def _alone(one: Instance, mask: Uint8Array, space: LabelSpace) -> tuple[str, str] | None:
    """What one object gets wrong by itself: expectation and finding."""
    if one.class_id not in space.by_id:
        return f"a class of {space.name}", f"class id {one.class_id}"
    if one.mask is not None and one.mask.shape != mask.shape:
        return f"a mask of {mask.shape[1]}x{mask.shape[0]}", f"{one.mask.shape[1]}x{one.mask.shape[0]}"
    x0, y0, x1, y1 = one.box
    if not (x0 < x1 and y0 < y1):
        return "a box with x0 < x1, y0 < y1", str(one.box)
    return None


def _wrong(number: int, one: Instance, expected: str, found: str) -> Problem:
    name = "" if one.source_id is None else f" ({one.source_id} in the source)"
    return Problem(Reason.BAD_ANNOTATION, f"instance {number}{name} with {expected}", found, FIX)
