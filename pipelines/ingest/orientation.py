"""Label maps on photos that EXIF turns: drawn on the upright photo, or on its pixels as stored."""

from collections import Counter
from dataclasses import replace
from typing import Literal

from maskmill.data_contracts import ContractError, Instance, Problem, Reason
from maskmill.data_contracts.image_files import turn_upright
from maskmill.data_contracts.images import Photo
from maskmill.data_contracts.rle import Runs
from maskmill.pipelines.ingest.masks import Labels

TURNED = "photos turned by EXIF, mask taken as upright"


def lay_on(
    photo: Photo, labels: Labels | None, drawn_on: Literal["upright", "stored"] | None, where: str
) -> tuple[Labels | None, Counter[str]]:
    """The labels as they lie on the upright photo, and a note where nothing but the rule says how they lie.

    Raises:
        ContractError: a mask of the size of the stored pixels and not of the upright photo, and no word on that.
    """
    notes, header = Counter[str](), photo.header
    if labels is None or not header.turned:
        return labels, notes
    stored, upright = (labels.mask.shape == size for size in (header.stored, header.upright))
    if drawn_on == "stored" and stored:
        return turn(labels, header.orientation), notes
    if stored and not upright:
        size = "{1}x{0}".format(*header.upright)
        expected = f"a mask of {size} (the photo as EXIF orientation {header.orientation} turns it)"
        found = "{1}x{0}, the photo's pixels as stored".format(*header.stored)
        fix = "set source.masks_drawn_on: stored (masks are turned with their photos), or take EXIF out of the photos"
        raise ContractError(where, Problem(Reason.SIZE_MISMATCH, expected, found, fix))
    if drawn_on is None:
        notes[TURNED] += 1
    return labels, notes


def turn(labels: Labels, orientation: int) -> Labels:
    """Label map and objects, turned as EXIF turns the photo."""
    mask = turn_upright(labels.mask, orientation)
    if labels.instances is None:
        return Labels(mask)
    height, width = labels.mask.shape
    return Labels(mask, tuple(_turn_instance(one, orientation, height, width) for one in labels.instances))


def _turn_instance(one: Instance, orientation: int, height: int, width: int) -> Instance:
    if (pixels := one.mask) is not None:
        turned = turn_upright(pixels, orientation)
        fields = {"score": one.score, "crowd": one.crowd, "source_id": one.source_id}
        return Instance.of(one.class_id, turned, **fields) if turned.any() else replace(one, runs=Runs.of(turned))
    x0, y0, x1, y1 = one.box
    if orientation >= 5:
        x0, y0, x1, y1, height, width = y0, x0, y1, x1, width, height
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return replace(one, box=(x0, y0, x1, y1))
