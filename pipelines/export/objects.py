"""Objects on their way out: what of each is seen in the label map, and whether whole objects draw that map again."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import Instance, Uint8Array
from maskmill.data_contracts.rle import Runs, columns, rows, runs_by_value

Drawn = tuple[int, Runs, Instance]


def _drawn(instances: Sequence[Instance]) -> list[Drawn]:
    """Objects with pixels, largest first, with their places: in the order in which readers draw them."""
    found = [(i, one.runs, one) for i, one in enumerate(instances) if one.runs is not None and not one.crowd]
    return sorted(found, key=lambda item: -item[1].area)


def object_map(instances: Sequence[Instance], mask: Uint8Array) -> NDArray[np.int32]:
    """Which object each pixel of a label map (H, W) shows: place in `instances` plus one, 0 where none is seen. The
    smaller one is on top, as ingest draws them, and an object is seen only where the map has its class.
    """
    flat = columns(mask)
    numbers = np.zeros(flat.size, np.int32)
    for place, runs, one in _drawn(instances):
        for start, end in zip(*(side.tolist() for side in runs.spans), strict=True):
            numbers[start:end][flat[start:end] == one.class_id] = place + 1
    found: NDArray[np.int32] = rows(numbers, *mask.shape)
    return found


def seen(instances: Sequence[Instance], mask: Uint8Array) -> Iterator[tuple[Instance, Runs]]:
    """The visible pixels of each object that has any, in the order of `instances`."""
    numbers = runs_by_value(object_map(instances, mask))
    return ((one, numbers[place]) for place, one in enumerate(instances, start=1) if place in numbers)


def whole(instances: Sequence[Instance], mask: Uint8Array) -> Iterator[tuple[Instance, Runs]]:
    """The pixels of each object, those under other objects among them, where such objects drawn one on the other give
    the label map again; else what is seen of them.
    """
    again, drawn = columns(mask), _drawn(instances)
    for _, runs, one in drawn:
        runs.paint(again, one.class_id)
    if not np.array_equal(again, columns(mask)):
        return seen(instances, mask)
    return ((one, runs) for _, runs, one in sorted(drawn, key=lambda item: item[0]) if runs.area)
