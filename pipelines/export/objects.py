"""Objects on their way out: what of each is seen in the label map, and whether whole objects draw that map again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import Instance, Uint8Array

Bool = NDArray[np.bool_]


def _drawn(instances: Sequence[Instance]) -> list[tuple[int, Bool, Instance]]:
    """Objects with pixels, largest first, with their places: in the order in which readers draw them."""
    found = [(i, one.mask, one) for i, one in enumerate(instances) if one.mask is not None and not one.crowd]
    return sorted(found, key=lambda item: -int(item[1].sum()))


def object_map(instances: Sequence[Instance], mask: Uint8Array) -> NDArray[np.int32]:
    """Which object each pixel of a label map (H, W) shows: place in `instances` plus one, 0 where none is seen. The
    smaller one is on top, as ingest draws them, and an object is seen only where the map has its class.
    """
    numbers = np.zeros(mask.shape, np.int32)
    for place, area, one in _drawn(instances):
        numbers[area & (mask == one.class_id)] = place + 1
    return numbers


def seen(instances: Sequence[Instance], mask: Uint8Array) -> list[tuple[Instance, Bool]]:
    """The visible pixels of each object that has any, in the order of `instances`."""
    numbers = object_map(instances, mask)
    parts = ((one, numbers == place) for place, one in enumerate(instances, start=1))
    return [(one, part) for one, part in parts if part.any()]


def whole(instances: Sequence[Instance], mask: Uint8Array) -> list[tuple[Instance, Bool]]:
    """The pixels of each object, those under other objects among them, where such objects drawn one on the other give
    the label map again; else what is seen of them.
    """
    again = mask.copy()
    for _, area, one in _drawn(instances):
        again[area] = one.class_id
    if not np.array_equal(again, mask):
        return seen(instances, mask)
    return [(one, area) for _, area, one in sorted(_drawn(instances), key=lambda item: item[0]) if area.any()]
