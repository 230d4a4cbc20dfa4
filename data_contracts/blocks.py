"""Large arrays in pieces: what numpy does with a whole photo often takes eight bytes a pixel for a while."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST = 1 << 20  # values of a block


def blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Rows of an array, some at a time, about a million values each."""
    row = max(1, values[:1].size)
    step = max(1, MOST // row)
    return (slice(start, start + step) for start in range(0, len(values), step))


def histogram(mask: NDArray[Any]) -> NDArray[np.int64]:
    """How often each of 0..255 occurs in an array of them. Pillow counts bytes; numpy would make them int64 first."""
    counts = np.zeros(256, np.int64)
    for rows in blocks(mask):
        values = np.ascontiguousarray(mask[rows], np.uint8)
        if values.size:
            counts += Image.frombuffer("L", (values.size, 1), values, "raw", "L", 0, 1).histogram()
    return counts


def looked_up(table: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """`table[places]` for an array of places."""
    found = np.empty(places.shape, table.dtype)
    for rows in blocks(places):
        found[rows] = table[places[rows]]
    return found
