"""Masks as COCO's run lengths, packed by pycocotools, unpacked by hand (it trusts what it is given)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_mask(mask: NDArray[np.bool_]) -> str:
    """COCO's compressed run lengths of a mask, bool (H, W)."""
    from pycocotools import mask as coco

    counts = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts if isinstance(counts, str) else counts.decode()


def unpack_mask(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """The mask, bool (height, width), that `pack_mask` made a string of.

    Raises:
        ValueError: no such string, or one of another size.
    """
    return draw_runs(unpack_runs(text), height, width)


def draw_runs(runs: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Column by column, runs of 0 and 1 in turn, 0 first.

    Raises:
        ValueError: no whole numbers from 0 on, or a sum that is not `height * width`.
    """
    if not isinstance(runs, list) or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 0 for r in runs):
        raise ValueError(f"{runs!r:.60}, no list of whole numbers")
    if sum(runs) != height * width:
        raise ValueError(f"a sum of {sum(runs)} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((width, height)).T


def unpack_runs(text: str) -> list[int]:
    """Run lengths of COCO's compressed string.

    Each number is little-endian in groups of 5 bits, one character (48 + group + 32 if more follow) a group, sign in
    the last one; from the fourth on, numbers are differences to the run two before (pycocotools, rleFrString).

    Raises:
        ValueError: a character that the code does not have, or a string that is cut off.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 55:
            raise ValueError(f"{text!r:.60}, no compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError(f"{text!r:.60}, cut off")
    return runs
