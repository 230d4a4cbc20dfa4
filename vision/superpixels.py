"""Superpixels: patches of like colour, of which a stroke that touches one tells the class.

Source: R. Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", TPAMI 2012: k-means on
colour and place in which a pixel asks the centres nearby alone. Here these are the nine of the grid cells around it.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array

COMPACTNESS = 10.0  # weight of place against colour, as in the paper
ROUNDS = 10
Ints = NDArray[np.int64]


def superpixels(image: Uint8Array, area: int) -> Ints:
    """Patches of about `area` pixels of an image uint8 (H, W, 3) RGB: int64 (H, W), numbered from 0, each connected."""
    height, width = image.shape[:2]
    step = area**0.5
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    y, x = (v.ravel() for v in np.mgrid[:height, :width])
    features = np.concatenate([lab, np.stack([y, x], axis=1) * (COMPACTNESS / step)], axis=1)
    cell_y, cell_x = y * rows // height, x * columns // width
    near = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            ny, nx = np.clip(cell_y + dy, 0, rows - 1), np.clip(cell_x + dx, 0, columns - 1)
            near.append(ny * columns + nx)
    owner = cell_y * columns + cell_x
    for _ in range(ROUNDS):
        centres = _means(features, owner, rows * columns)
        costs = np.stack([np.square(features - centres[n]).sum(axis=1) for n in near])
        owner = np.take_along_axis(np.stack(near), costs.argmin(axis=0)[None], axis=0)[0]
    return _connected(owner.reshape(height, width))


def _means(features: NDArray[np.float64], owner: Ints, count: int) -> NDArray[np.float64]:
    """Mean features (count, D) of each centre's pixels; a centre without any lies out of reach."""
    number = np.bincount(owner, minlength=count)
    sums = np.stack([np.bincount(owner, column, minlength=count) for column in features.T], axis=1)
    means: NDArray[np.float64] = np.where(number[:, None] > 0, sums / np.maximum(number, 1)[:, None], np.inf)
    return means


def _connected(owner: Ints) -> Ints:
    """Parts of one number that hang together over sides, each with a number of its own."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    index = np.arange(owner.size).reshape(owner.shape)
    down, right = owner[1:] == owner[:-1], owner[:, 1:] == owner[:, :-1]
    a = np.concatenate([index[:-1][down], index[:, :-1][right]])
    b = np.concatenate([index[1:][down], index[:, 1:][right]])
    graph = coo_matrix((np.ones(len(a), np.bool_), (a, b)), shape=(owner.size, owner.size))
    labels: Ints = connected_components(graph, directed=False)[1].reshape(owner.shape).astype(np.int64)
    return labels


def expand_strokes(strokes: Uint8Array, image: Uint8Array, area: int) -> Uint8Array:
    """Strokes uint8 (H, W), 255 = not drawn, grown to the superpixels that strokes of one class alone touch; what is
    drawn stays.
    """
    patches = superpixels(image, area)
    drawn = strokes != IGNORE
    count = int(patches.max()) + 1
    low, high = np.full(count, IGNORE, np.int64), np.full(count, -1, np.int64)
    np.minimum.at(low, patches[drawn], strokes[drawn])
    np.maximum.at(high, patches[drawn], strokes[drawn])
    own = np.where(low == high, low, IGNORE)[patches]
    grown: Uint8Array = np.where(drawn, strokes, own).astype(np.uint8)
    return grown
