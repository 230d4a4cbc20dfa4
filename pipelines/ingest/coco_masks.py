"""COCO segmentations to bool masks: polygons through pycocotools, run lengths by hand (it trusts what it is given)."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.pipelines.ingest.base import bad_annotation


def draw_segmentation(segmentation: Any, height: int, width: int, where: str) -> NDArray[np.bool_]:
    """Bool (height, width) of a list of polygons (their union) or of run lengths {size, counts}, compressed or not.

    Raises:
        ContractError: `bad_annotation` for anything that does not describe a mask of this size.
    """
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        size = segmentation.get("size")
        if size != [height, width]:
            raise _bad(where, f"run lengths of size [{height}, {width}]", repr(size))
        runs = _unpack(counts, where) if isinstance(counts, str) else counts
        return _from_runs(runs, height, width, where)
    if not isinstance(segmentation, list):
        raise _bad(where, "polygons or run lengths", repr(segmentation)[:60])
    return _from_polygons(segmentation, height, width, where)


def _from_polygons(polygons: list[Any], height: int, width: int, where: str) -> NDArray[np.bool_]:
    from pycocotools import mask as coco_mask

    limit = 2.0 * max(height, width)  # far outside means another image's annotation; pycocotools would walk all the way
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(
            isinstance(v, int | float) and math.isfinite(v) and abs(v) <= limit for v in polygon
        )
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise _bad(where, "polygons of three or more x, y pairs near the image", repr(polygon)[:60])
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    drawn: NDArray[np.bool_] = coco_mask.decode(merged).astype(bool)
    return drawn


def _from_runs(runs: Any, height: int, width: int, where: str) -> NDArray[np.bool_]:
    """Column by column, runs of 0 and 1 in turn, 0 first."""
    sane = isinstance(runs, list) and all(isinstance(r, int) and not isinstance(r, bool) and r >= 0 for r in runs)
    if not sane or sum(runs) != height * width:
        found = f"a sum of {sum(runs)}" if sane else repr(runs)[:60]
        raise _bad(where, f"run lengths that sum to {height * width} pixels", found)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((width, height)).T


def _unpack(text: str, where: str) -> list[int]:
    """Run lengths of COCO's compressed string.

    Each number is little-endian in groups of 5 bits, one character (48 + group + 32 if more follow) a group, sign in
    the last one; from the fourth on, numbers are differences to the run two before (pycocotools, rleFrString).
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 55:
            raise _bad(where, "COCO's compressed run lengths", repr(text)[:60])
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise _bad(where, "COCO's compressed run lengths", f"{text!r:.60}, cut off")
    return runs


def _bad(where: str, expected: str, found: str) -> Exception:
    return bad_annotation(where, expected, found, "mend the segmentation, or remove the annotation")
