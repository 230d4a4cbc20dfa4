"""Class maps learnt from the seeds of all photos, fitted to the boxes of one.

A box says that its class is there, and objects fill boxes to a degree that varies little: maps that leave a box empty,
or fill it, are moved until they do not. The idea of a filling rate is that of C. Song et al., "Box-driven Class-wise
Region Masking and Filling Rate Guided Loss", CVPR 2019; the form here is our own.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

Float32 = NDArray[np.float32]
Box = tuple[int, int, int, int, int]  # channel, y0, x0, y1, x1
HALVINGS, LIMIT = 14, 20.0


def fill_boxes(logits: Float32, boxes: Sequence[Box], fill: tuple[float, float], rounds: int = 3) -> Float32:
    """Class shares (1 + K, h, w) from logits of background and K classes: in each box the mean share of its class lies
    within `fill`, as far as boxes agree, and a class has no share outside of its boxes.

    Box after box, large ones first, its class's logits get the one constant that its mean needs.
    """
    z: Float32 = np.where(_allowed(logits.shape, boxes), logits, -np.inf).astype(np.float32)
    order = sorted(boxes, key=lambda b: -(b[3] - b[1]) * (b[4] - b[2]))
    for _ in range(rounds):
        moved = False
        for channel, y0, x0, y1, x1 in order:
            view = z[:, y0:y1, x0:x1]
            lead = view[channel] - logsumexp(np.delete(view, channel, axis=0), axis=0)
            mean = expit(lead).mean()
            if fill[0] <= mean <= fill[1]:
                continue
            view[channel] += _shift(lead, fill[0] if mean < fill[0] else fill[1])
            moved = True
        if not moved:
            break
    shares = np.exp(z - z.max(axis=0))
    out: Float32 = shares / shares.sum(axis=0)
    return out


def _allowed(shape: tuple[int, ...], boxes: Sequence[Box]) -> NDArray[np.bool_]:
    allowed = np.zeros(shape, bool)
    allowed[0] = True
    for channel, y0, x0, y1, x1 in boxes:
        allowed[channel, y0:y1, x0:x1] = True
    return allowed


def _shift(lead: Float32, wanted: float) -> float:
    """The constant that gives sigmoid(lead + constant) the mean `wanted`, by bisection."""
    low, high = -LIMIT, LIMIT
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if expit(lead + middle).mean() < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
