"""Large arrays in pieces: what numpy does with a whole photo often takes eight bytes a pixel for a while."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 1 << 20  # values of a block


def blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Rows of an array, some at a time, about a million values each."""
    row = max(1, values[:1].size)
    step = max(1, MOST // row)
    return (slice(start, start + step) for start in range(0, len(values), step))


def histogram(mask: NDArray[Any]) -> NDArray[np.int64]:
    """How often each of 0..255 occurs in an array of them."""
    counts = np.zeros(256, np.int64)
    for rows in blocks(mask):
        counts += np.bincount(mask[rows].ravel(), minlength=256)
    return counts


def looked_up(table: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """`table[places]` for an array of places."""
    found = np.empty(places.shape, table.dtype)
    for rows in blocks(places):
        found[rows] = table[places[rows]]
    return found
