"""Several masks of one photo (a file a class, or a file an object) as one label map."""

from collections.abc import Sequence

import numpy as np

from maskmill.data_contracts import IGNORE, ContractError, Instance, LabelSpace, Problem, Reason, Uint8Array
from maskmill.data_contracts.instances import MAX_OBJECTS
from maskmill.data_contracts.label_files import decode_labels
from maskmill.data_contracts.rle import Runs, rows, runs_by_value
from maskmill.pipelines.ingest.base import MaskPart, class_value, unknown_class
from maskmill.pipelines.ingest.masks import Labels, MaskRule, as_values

Layer = dict[int, Runs]  # pixels by id


def unite(parts: Sequence[MaskPart], rule: MaskRule, space: LabelSpace) -> Labels:
    """One label map uint8 (H, W) of contract ids, with an instance a part where a class has several.

    Where parts overlap, the smaller one is on top (then the later one); what a part leaves open (255 beside other
    values) is ignore unless another part claims it.

    Raises:
        ContractError: a part that cannot be read, parts of different sizes, a class that the space does not have.
    """
    if len(parts) > MAX_OBJECTS:
        fix = "write one mask of class ids for the photo"
        expected, found = f"at most {MAX_OBJECTS:,} masks of one photo", f"{len(parts):,}"
        raise ContractError(parts[0].where, Problem(Reason.BAD_ANNOTATION, expected, found, fix))
    ground = IGNORE if space.background_id is None else space.background_id
    layers, size = [], (0, 0)
    for number, part in enumerate(parts):
        ids = _map(part, rule, space, ground)
        size = size if number else ids.shape
        if ids.shape != size:
            expected = f"masks of one size ({size[1]}x{size[0]}, as {parts[0].where})"
            problem = Problem(
                Reason.SIZE_MISMATCH,
                expected,
                "{1}x{0}".format(*ids.shape),
                "write the masks of a photo in one size",
            )
            raise ContractError(part.where, problem)
        layers.append(runs_by_value(ids))
    canvas = np.full(size[0] * size[1], ground, np.uint8)
    for layer in layers:
        if IGNORE in layer:
            layer[IGNORE].paint(canvas, IGNORE)
    claims = [{value: runs for value, runs in one.items() if value not in (ground, IGNORE)} for one in layers]
    for claim in sorted(claims, key=lambda claim: -sum(runs.area for runs in claim.values())):
        for value, runs in claim.items():
            runs.paint(canvas, value)
    return Labels(rows(canvas, *size), _objects(parts, claims, space))


def _objects(parts: Sequence[MaskPart], claims: Sequence[Layer], space: LabelSpace) -> tuple[Instance, ...] | None:
    """Parts as objects; None where no class has two: such files are one a class, with any number of objects in each."""
    found = [
        Instance.of_runs(value, runs, source_id=part.where)
        for part, claim in zip(parts, claims, strict=True)
        for value, runs in claim.items()
        if value in space.by_id
    ]
    several = len(found) > len({one.class_id for one in found})
    return tuple(found) if several else None


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
