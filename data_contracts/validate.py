"""Checks on one image–mask pair. Each returns the problem it finds; whoever calls decides to raise or to record it."""

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts.blocks import histogram
from maskmill.data_contracts.errors import ContractError, Problem, Reason
from maskmill.data_contracts.images import IGNORE, Uint8Array, decode_image
from maskmill.data_contracts.instances import check_instances, read_instances
from maskmill.data_contracts.label_files import decode_mask
from maskmill.data_contracts.labels import LabelSpace

Counts = NDArray[np.int64]


def check_pair(
    image: Uint8Array,
    mask: Uint8Array,
    space: LabelSpace,
    *,
    allow_empty: bool = False,
    counts: Counts | None = None,
) -> Problem | None:
    """First thing wrong with an image uint8 (H, W, 3) and its mask uint8 (H, W), or None. `counts`: the mask's
    histogram, where it is known.
    """
    if image.shape[:2] != mask.shape:
        return Problem(
            Reason.SIZE_MISMATCH,
            f"a mask of {image.shape[1]}x{image.shape[0]} (the upright image)",
            f"{mask.shape[1]}x{mask.shape[0]}",
            "resize the mask by nearest neighbour, or pair it with its own image",
        )
    return check_mask(mask, space, allow_empty=allow_empty, counts=counts)


def check_mask(
    mask: Uint8Array, space: LabelSpace, *, allow_empty: bool = False, counts: Counts | None = None
) -> Problem | None:
    """Ids outside the label space (with pixel counts), or no foreground at all."""
    counts = histogram(mask) if counts is None else counts
    strangers = [int(i) for i in np.flatnonzero(counts) if int(i) not in space.allowed_ids]
    if strangers:
        found = ", ".join(f"id {i} on {counts[i]} pixels" for i in strangers[:5])
        return Problem(
            Reason.UNKNOWN_MASK_ID,
            f"ids of label space {space.name} (or {IGNORE} = ignore)",
            found,
            f"add the class to the label space, or map it with ingest's `remap`, e.g. {{{strangers[0]}: ignore}}",
        )
    if not allow_empty and not any(int(i) in space.by_id for i in np.flatnonzero(counts)):
        return Problem(
            Reason.EMPTY_FOREGROUND,
            "at least one foreground pixel",
            f"only ids {[int(i) for i in np.flatnonzero(counts)]}",
            _empty_fix(bool(counts[IGNORE]), space),
        )
    return None


def _empty_fix(ignored: bool, space: LabelSpace) -> str:
    fix = "drop the sample, or set allow_empty in the ingest config"
    if not ignored or not space.classes:
        return fix
    name = space.classes[0].name
    return f"255 means ignore; if it is your object, set source.remap: {{255: {name}}}; if nothing is to be seen, {fix}"


def foreground_ids(mask: Uint8Array, space: LabelSpace, counts: Counts | None = None) -> list[int]:
    """Foreground ids present in a mask, ascending: its values minus background and ignore."""
    present = np.flatnonzero(histogram(mask) if counts is None else counts)
    return [int(i) for i in present if int(i) in space.by_id]


def check_row(row: dict[str, object], space: LabelSpace) -> Problem | None:
    """Decode a Sample row and check image, mask, stated size and stated classes; for reading other people's shards."""
    where = str(row["sample_id"])
    try:
        image = decode_image(_bytes(row["image"]), where)
        if row["mask"] is None:
            return None
        mask = decode_mask(_bytes(row["mask"]), where)
    except ContractError as error:
        return error.problem
    if (problem := check_pair(image, mask, space, allow_empty=True)) is not None:
        return problem
    stated = (row["height"], row["width"], row["class_ids"])
    found = (*mask.shape, foreground_ids(mask, space))
    if stated != found:
        return Problem(
            Reason.BAD_ANNOTATION, f"height, width, class_ids {found}", str(stated), "ingest the sample again"
        )
    try:
        instances = read_instances(row, *mask.shape)
    except ValueError as error:
        return Problem(
            Reason.BAD_ANNOTATION, f"run lengths of {mask.shape}", f"instances with {error}", "ingest the sample again"
        )
    return None if instances is None else check_instances(instances, mask, space)


def _bytes(file: object) -> bytes:
    data = file.get("bytes") if isinstance(file, dict) else None
    if not isinstance(data, bytes):
        problem = Problem(
            Reason.MISSING_IMAGE, "a file column with bytes", repr(type(data).__name__), "ingest with embedded bytes"
        )
        raise ContractError("row", problem)
    return data
