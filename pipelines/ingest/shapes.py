"""Outlines on a photo, from any annotation tool, as a sample: what sources of polygons share."""

from collections.abc import Callable
from typing import Any, Literal

from maskmill.data_contracts import ContractError, LabelSpace, Problem, Reason
from maskmill.data_contracts.image_files import Header, read_header
from maskmill.pipelines.ingest.base import RawSample, Source, class_value, unknown_class
from maskmill.pipelines.ingest.class_files import BACKGROUND, IGNORED
from maskmill.pipelines.ingest.coco_draw import Rules, draw_notes

Note = dict[str, Any]  # as COCO has annotations: id, segmentation or bbox, score; and `name`, the class
Boxes = Literal["reject", "ignore", "fill", "label"]


def sized(image: bytes, where: str, max_pixels: int) -> Header:
    """The header of a photo that is small enough to be drawn on.

    Raises:
        ContractError: no image, or too large.
    """
    header = read_header(image, where)
    height, width = header.upright
    if height * width > max_pixels:
        fix = "shrink it, or raise max_pixels in the ingest config"
        problem = Problem(Reason.IMAGE_TOO_LARGE, f"at most {max_pixels} pixels", f"{width}x{height}", fix)
        raise ContractError(where, problem)
    return header


def draw_shapes(
    image: bytes, notes: list[Note], size: tuple[int, int], where: str, space: LabelSpace, boxes: Boxes = "reject"
) -> RawSample:
    """A photo with its objects drawn: label map and instances. Of two that overlap the smaller one is on top.

    Raises:
        ContractError: an object that is no outline, or whose class the space does not have; names it.
    """
    rules = Rules(where, space, class_of(space, where), crowds="objects", boxes=boxes, in_pixels=True)
    drawing = draw_notes(notes, *size, rules)
    return RawSample(image=image, drawn=drawing.mask, instances=tuple(drawing.instances), notes=dict(drawing.notes))


def class_of(space: LabelSpace, where: str) -> Callable[[Note], int]:
    """Mask value of a note by the name of its class; what tools call background and ignore counts where the space has
    no class of that name.
    """

    def value(note: Note) -> int:
        name = str(note["name"])
        plain = name.strip("_ ").lower()
        fallback = "background" if plain in BACKGROUND else "ignore" if plain in IGNORED else name
        for word in (name, fallback):
            try:
                return class_value(word, space)
            except KeyError:
                continue
        raise unknown_class(name, space, f"{where}, annotation {note.get('id')}")

    return value


def empty_photo(source: Source) -> Problem | None:
    """What to say of a photo without an annotation file; None where photos without objects are wanted."""
    if source.allow_empty:
        return None
    fix = "add the file; if it is missing where nothing is to be seen, set source.allow_empty: true"
    return Problem(Reason.MISSING_MASK, "a file with the objects of the photo", "none", fix)
