"""The outline of a region as one ring, holes joined to it by bridges, for formats whose polygons have no holes."""

import cv2
import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]


def edges(part: NDArray[np.bool_]) -> IntArray:
    """One ring (N, 2) of x, y along the edges of the pixels of an 8-connected part (H, W); pixel 0 lies from 0 to 1."""
    doubled = np.kron(part, np.ones((2, 2), dtype=bool))  # each pixel's corners are pixels of their own here
    return corners((bridged(doubled) + 1) // 2)


def bridged(part: NDArray[np.bool_]) -> IntArray:
    """Outline and hole rings as one ring of neighbouring pixels.

    From its leftmost pixel every hole walks left, over foreground only, until it meets a ring that is joined already.
    Holes go in order of their leftmost pixel, so that ring is there: the outline, or a hole further left.
    """
    rings = _rings(part)
    owner = np.full((2, *part.shape), -1, dtype=np.int32)  # ring and position in it, of every pixel of a joined ring
    children: dict[tuple[int, int], list[int]] = {}
    for number, ring in enumerate(rings):
        if number:
            x, y = (int(v) for v in ring[0])
            while owner[0, y, x] < 0:
                x -= 1
            children.setdefault((int(owner[0, y, x]), int(owner[1, y, x])), []).append(number)
        free = owner[0, ring[:, 1], ring[:, 0]] < 0
        owner[0, ring[free, 1], ring[free, 0]] = number
        owner[1, ring[free, 1], ring[free, 0]] = np.flatnonzero(free)
    return _walk(rings, children)


def _rings(part: NDArray[np.bool_]) -> list[IntArray]:
    """Outline first, then the pixels around each hole; each ring starts at its leftmost (then topmost) pixel."""
    contours, hierarchy = cv2.findContours(part.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    keyed: list[tuple[bool, int, int, int, IntArray]] = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        ring = np.asarray(contour, dtype=np.int32).reshape(-1, 2)
        start = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])
        ring = np.roll(ring, -start, axis=0)
        keyed.append((parent >= 0, int(ring[0, 0]), int(ring[0, 1]), len(keyed), ring))
    return [item[-1] for item in sorted(keyed, key=lambda item: item[:-1])]


def _walk(rings: list[IntArray], children: dict[tuple[int, int], list[int]]) -> IntArray:
    """Go around the outline; where a hole hangs, go over, around it, and back."""
    path: list[tuple[int, int]] = []
    stack = [(0, 0)]
    while stack:
        number, at = stack.pop()
        ring = rings[number]
        path.append((int(ring[at % len(ring), 0]), int(ring[at % len(ring), 1])))
        if at == len(ring):  # back at the hole's first pixel
            continue
        if hanging := children.get((number, at)):
            stack.append((number, at))
            stack.append((hanging.pop(), 0))
        elif at + 1 < len(ring) or number:
            stack.append((number, at + 1))
    return np.asarray(path, dtype=np.int32)


def corners(ring: IntArray) -> IntArray:
    """The ring without repeated pixels and without those in the middle of a straight line; at least three points."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if len(ring) > 1 else ring
    step_in, step_out = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turn = step_in[:, 0] * step_out[:, 1] - step_in[:, 1] * step_out[:, 0]
    kept: IntArray = ring[(turn != 0) | ((step_in * step_out).sum(axis=1) <= 0)]
    while len(kept) < 3:  # a part one pixel wide; readers take fewer than three points for a box
        kept = np.concatenate([kept, kept[-1:]])
    return kept
