"""Black and white masks whose borders are grey (anti-aliased, or of JPEG): how to tell them, and how to cut them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, ContractError, LabelSpace, Problem, Reason, Uint8Array
from maskmill.data_contracts.label_files import LabelFile

SOFT_WHITE = 240  # the brightest value that an anti-aliased mask of 0 and 255 surely reaches
SOFT_VALUES = 3  # so many values that are no ids tell a soft border from a forgotten class


def cut(
    values: NDArray[np.int32], threshold: int, space: LabelSpace, where: str, foreground: int | None = None
) -> Uint8Array:
    """The object (`foreground`, else the first class) from `threshold` on, background below: uint8 (H, W).

    Raises:
        ContractError: a label space without a class or a background to cut into.
    """
    if space.background_id is None or not space.classes:
        fix = "leave threshold out, or name a class and a background_id"
        raise ContractError(where, Problem(Reason.WRONG_MASK_FORMAT, "a class and a background", "none", fix))
    target = space.classes[0].id if foreground is None else foreground
    found: Uint8Array = np.where(values >= threshold, target, space.background_id).astype(np.uint8)
    return found


def soft_border(found: LabelFile, used: Sequence[int], remap: Mapping[int, int], space: LabelSpace) -> Problem | None:
    """What to say of a mask of 0, a value near 255, and several between that are no ids; None of any other."""
    strangers = [v for v in used if v not in remap and v not in space.allowed_ids]
    far = bool(used) and used[0] == 0 and SOFT_WHITE <= used[-1] <= IGNORE and remap.get(0, 0) == 0
    if found.palette is not None or not far or len(strangers) < SOFT_VALUES or not space.classes:
        return None
    words = f"black, white and {len(strangers)} grey values between them, e.g. {strangers[:3]}"
    fix = f"cut soft borders in the middle: set source.threshold: 128, then white is {space.classes[0].name}"
    return Problem(Reason.UNKNOWN_MASK_ID, f"ids of label space {space.name}", words, fix)
