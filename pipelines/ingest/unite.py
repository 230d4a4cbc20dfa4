"""Several masks of one photo (a file a class, or a file an object) as one label map."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, ContractError, Instance, LabelSpace, Problem, Reason, Uint8Array
from maskmill.data_contracts.label_files import decode_labels
from maskmill.pipelines.ingest.base import MaskPart, class_value, unknown_class
from maskmill.pipelines.ingest.masks import Labels, MaskRule, as_values


def unite(parts: Sequence[MaskPart], rule: MaskRule, space: LabelSpace) -> Labels:
    """One label map uint8 (H, W) of contract ids, with an instance a part where a class has several.

    Where parts overlap, the smaller one is on top (then the later one); what a part leaves open (255 beside other
    values) is ignore unless another part claims it.

    Raises:
        ContractError: a part that cannot be read, parts of different sizes, a class that the space does not have.
    """
    ground = IGNORE if space.background_id is None else space.background_id
    maps = [_map(part, rule, space, ground) for part in parts]
    for part, ids in zip(parts, maps, strict=True):
        if ids.shape != maps[0].shape:
            (height, width), (theirs, across) = maps[0].shape, ids.shape
            expected = f"masks of one size ({width}x{height}, as {parts[0].where})"
            fix = "write the masks of a photo in one size"
            raise ContractError(part.where, Problem(Reason.SIZE_MISMATCH, expected, f"{across}x{theirs}", fix))
    united = np.full(maps[0].shape, ground, np.uint8)
    for ids in maps:
        united[ids == IGNORE] = IGNORE
    for ids in sorted(maps, key=lambda ids: -_claimed(ids, ground).sum()):
        claimed = _claimed(ids, ground)
        united[claimed] = ids[claimed]
    return Labels(united, _objects(parts, maps, ground, space))


def _objects(
    parts: Sequence[MaskPart], maps: Sequence[Uint8Array], ground: int, space: LabelSpace
) -> tuple[Instance, ...] | None:
    """Parts as objects; None where no class has two: such files are one a class, with any number of objects in each."""
    found = []
    for part, ids in zip(parts, maps, strict=True):
        for value in np.unique(ids[_claimed(ids, ground)]):
            if int(value) in space.by_id:
                found.append(Instance.of(int(value), ids == value, source_id=part.where))
    several = len(found) > len({one.class_id for one in found})
    return tuple(found) if several else None


def _claimed(ids: Uint8Array, ground: int) -> NDArray[np.bool_]:
    claimed: NDArray[np.bool_] = (ids != ground) & (ids != IGNORE)
    return claimed


def _map(part: MaskPart, rule: MaskRule, space: LabelSpace, ground: int) -> Uint8Array:
    """One part as contract ids."""
    if part.word is None:
        return rule.read(part.data, part.where).mask
    value = _value(part, space)
    found = as_values(decode_labels(part.data, part.where, rule.max_pixels, rule.page), part.where)
    levels = set(np.flatnonzero(np.bincount(found.ravel(), minlength=256)).tolist()) - {0}
    objects = (found != 0) if levels == {IGNORE} else (found != 0) & (found != IGNORE)  # 0 and 255: 255 is the object
    ids = np.full(found.shape, ground, np.uint8)
    ids[(found == IGNORE) & ~objects] = IGNORE
    ids[objects] = value
    return ids


def _value(part: MaskPart, space: LabelSpace) -> int:
    word = part.word
    assert word is not None
    number = int(word) if isinstance(word, str) and word.isascii() and word.isdigit() else word
    try:
        return class_value(space.find_id(number) if isinstance(number, int) else number, space)
    except (KeyError, ValueError):
        raise unknown_class(word, space, part.where) from None
