"""COCO annotations to a label map and its instances: what lies on top, what crowds and bare boxes become."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, ContractError, Instance, LabelSpace, Uint8Array
from maskmill.data_contracts.instances import MAX_OBJECTS
from maskmill.data_contracts.rle import Runs, rows
from maskmill.pipelines.ingest.base import bad_annotation
from maskmill.pipelines.ingest.coco_masks import are_shares, draw_segmentation, is_empty
from maskmill.pipelines.ingest.coco_values import flag, identity, named

Row = dict[str, Any]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Rules:
    """How one image's annotations are read: `value` gives the mask value of one by its category; with `in_pixels` the
    source itself made sure that coordinates are pixels and no shares of the photo's sides.
    """

    where: str
    space: LabelSpace
    value: Callable[[Row], int]
    crowds: str
    boxes: str
    in_pixels: bool = False

    @property
    def ground(self) -> int:
        """The value where nothing is."""
        return IGNORE if self.space.background_id is None else self.space.background_id

    def is_crowd(self, note: Row) -> bool:
        """Whether an annotation is a crowd, to be ignored.

        Raises:
            ContractError: a flag that is neither yes nor no, or one that this file gives no meaning.
        """
        marked, ignored = flag(note.get("iscrowd")), flag(note.get("ignore"))
        if marked is None or ignored is None:
            there = f"{named(note)} with iscrowd {note.get('iscrowd')!r:.40}, ignore {note.get('ignore')!r:.40}"
            raise bad_annotation(self.where, "iscrowd and ignore as 0 or 1", there, "mend the JSON")
        if marked and self.crowds == "reject":
            there = f"{named(note)} with iscrowd 1, a crowd or an object with holes or several parts"
            fix = "set source.crowds: objects to read such annotations as objects, or source.crowds: ignore for 255"
            raise bad_annotation(self.where, "iscrowd 1 where the file shows what it means", there, fix)
        return ignored or (marked and self.crowds == "ignore")


@dataclass
class Drawing:
    """A label map with its instances, and how many annotations were read by a rule."""

    mask: Uint8Array
    instances: list[Instance] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Piece:
    """One annotation as run lengths. `below` pieces lie under all others."""

    note: Row
    value: int
    runs: Runs
    below: bool
    box: tuple[float, float, float, float] | None = None  # of an object without an outline

    @property
    def order(self) -> tuple[bool, int, float]:
        number = identity(self.note.get("id"))
        digits = number is not None and number.removeprefix("-").isdecimal()
        return not self.below, -self.runs.area, float(number) if digits and number is not None else 0.0


def draw_notes(notes: list[Row], height: int, width: int, rules: Rules) -> Drawing:
    """Label map and instances of an image's annotations. Memory holds one canvas and run lengths, however many
    objects there are.

    Raises:
        ContractError: names the annotation that cannot be read; or there are too many.
    """
    if len(notes) > MAX_OBJECTS:
        fix = "cut the photo into tiles, or leave the smallest objects out"
        raise bad_annotation(rules.where, f"at most {MAX_OBJECTS:,} objects on one photo", f"{len(notes):,}", fix)
    counted: Counter[str] = Counter()
    pieces = [_piece(note, height, width, rules, counted) for note in notes]
    canvas = np.full(height * width, rules.ground, np.uint8)
    for piece in sorted(pieces, key=lambda p: p.order):
        piece.runs.paint(canvas, IGNORE if piece.below else piece.value)
    drawing = Drawing(rows(canvas, height, width), notes=counted)
    erased = any(piece.value == rules.ground and not piece.below for piece in pieces)
    bare = drawing.mask == rules.ground if erased and rules.ground != IGNORE else None
    for piece in pieces:
        if (one := _instance(piece, bare, rules)) is not None:
            drawing.instances.append(one)
    return drawing


def _piece(note: Row, height: int, width: int, rules: Rules, notes: Counter[str]) -> _Piece:
    where, crowd = named(note), rules.is_crowd(note)
    value = IGNORE if crowd else rules.value(note)
    if is_empty(note.get("segmentation")):
        return _boxed(note, value, crowd, (height, width), rules, notes)
    if are_shares(note["segmentation"]) and not rules.in_pixels:
        raise _shares(note, note["segmentation"], rules)
    runs = draw_segmentation(note["segmentation"], height, width, where)
    if flag(note.get("iscrowd")):
        notes["iscrowd as ignore" if crowd else "iscrowd as objects"] += 1
    elif crowd:
        notes["ignore flags as ignore"] += 1
    if not runs.area:
        notes["objects that cover no pixel"] += 1
    return _Piece(note, value, runs, below=crowd)


def _shares(note: Row, numbers: Any, rules: Rules) -> Exception:
    there = f"{named(note)} with {numbers!r:.60}, shares of the photo's sides perhaps"
    fix = "multiply x by the photo's width and y by its height"
    return bad_annotation(rules.where, "coordinates in pixels", there, fix)


def _boxed(note: Row, value: int, crowd: bool, size: tuple[int, int], rules: Rules, notes: Counter[str]) -> _Piece:
    """An object that has a box and no outline."""
    x, y, w, h = _box(note, size, rules)
    notes[f"boxes without an outline, {'ignore' if crowd else rules.boxes}"] += 1
    if rules.boxes == "fill" and not crowd:
        ring = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        return _Piece(note, value, draw_segmentation(ring, *size, named(note)), below=False)
    area = np.zeros(size, dtype=bool)
    area[max(0, math.floor(y)) : math.ceil(y + h), max(0, math.floor(x)) : math.ceil(x + w)] = True
    kept = rules.boxes == "label" and value in rules.space.by_id
    return _Piece(note, value, Runs.of(area), below=True, box=(x, y, x + w, y + h) if kept else None)


def _box(note: Row, size: tuple[int, int], rules: Rules) -> tuple[float, float, float, float]:
    """The box of an annotation as x, y, width, height.

    Raises:
        ContractError: none, or none is wanted.
    """
    box, limit = note.get("bbox"), 2.0 * max(size)
    sane = (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= limit for v in box)
    )
    where, there = rules.where, f"{named(note)} without one, bbox {box!r:.60}"
    if not sane or not isinstance(box, list) or box[2] <= 0 or box[3] <= 0:
        raise bad_annotation(
            where, "an outline (or a box) for every object", there, "draw it, or remove the annotation"
        )
    if are_shares(box) and not rules.in_pixels:
        raise _shares(note, box, rules)
    if rules.boxes == "reject":
        fix = "draw it, or set source.boxes: ignore (255 in the box), fill, or label (for a box labeler)"
        raise bad_annotation(where, "an outline for every object", there, fix)
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def _instance(piece: _Piece, bare: Bool | None, rules: Rules) -> Instance | None:
    """The instance that a piece is; none where its category is background or ignore, or where it has no pixels. `bare`
    are the pixels of background, where categories that became background may have erased some of it.
    """
    number = identity(piece.note.get("id"))
    if piece.box is not None:
        return Instance(piece.value, piece.box, None, source_id=number)
    if piece.below:
        return _crowd(piece, number, rules)
    own = piece.runs if bare is None else Runs.of(piece.runs.draw() & ~bare)
    if piece.value not in rules.space.by_id or not own.area:
        return None
    return Instance.of_runs(piece.value, own, source_id=number, score=_score(piece.note))


def _crowd(piece: _Piece, number: str | None, rules: Rules) -> Instance | None:
    """A crowd with its class, where that is one of the space's."""
    try:
        value = rules.value(piece.note)
    except ContractError:
        return None
    if value not in rules.space.by_id or not piece.runs.area:
        return None
    return Instance.of_runs(value, piece.runs, crowd=True, source_id=number)


def _score(note: Row) -> float | None:
    score = note.get("score")
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None
