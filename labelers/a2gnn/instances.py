"""One mask a box, cut out of a label map."""

from collections.abc import Sequence

import numpy as np

from maskmill.data_contracts import Uint8Array
from maskmill.labelers.a2gnn.boxes import Bool, PixelBox


def box_instances(mask: Uint8Array, boxes: Sequence[PixelBox], claims: Sequence[Bool] = ()) -> list[Bool]:
    """The instance of each box, bool (H, W): pixels of its class in it, each pixel in one instance only.

    Where boxes of one class overlap, a pixel goes to a box whose claim (GrabCut's, for example) holds it, among those
    to the box in which it lies most central, among those to the smaller one.
    """
    size = (mask.shape[0], mask.shape[1])
    owner, best = np.full(size, -1, np.int32), np.full(size, np.inf)
    for number in sorted(range(len(boxes)), key=lambda i: (boxes[i].area, i)):
        box = boxes[number]
        own = mask[box.at] == box.class_id
        cost = _off_centre(box)
        if len(claims) == len(boxes):
            cost = cost + ~claims[number][box.at]
        better = own & (cost < best[box.at])
        owner[box.at][better] = number
        best[box.at][better] = cost[better]
    return [owner == number for number in range(len(boxes))]


def _off_centre(box: PixelBox) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """0 in the middle of a box, below 1 to its sides."""
    y = np.abs(np.arange(box.y0, box.y1) + 0.5 - (box.y0 + box.y1) / 2) / ((box.y1 - box.y0) / 2)
    x = np.abs(np.arange(box.x0, box.x1) + 0.5 - (box.x0 + box.x1) / 2) / ((box.x1 - box.x0) / 2)
    far: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.maximum(y[:, None], x[None, :])
    return far
