"""Gaussian filtering of scattered points on the permutohedral lattice, in numpy and scipy alone.

The lattice of d dimensions tiles space with simplices of d + 1 corners. A point spreads its value over the corners of
its simplex (splat), neighbouring corners mix along each of the d + 1 axes (blur), and the point reads its corners back
(slice). The cost grows with the number of points, not with its square.

Source: A. Adams, J. Baek, M. A. Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics
2010.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class Lattice:
    """The operator K with K[i, j] about exp(-|f_i - f_j|^2 / 2) (up to a global factor) for features f float (N, d).

    Raises:
        ValueError: the features span so many cells that a corner's address does not fit 63 bits; use wider kernels.
    """

    def __init__(self, features: NDArray[np.floating]) -> None:
        points, dims = features.shape
        corners, weights = _simplices(np.ascontiguousarray(features.T, dtype=np.float64))
        keys, places = np.unique(corners.addresses.T.ravel(), return_inverse=True)
        starts = np.arange(0, points * (dims + 1) + 1, dims + 1)
        entries = (np.ascontiguousarray(weights.T, dtype=np.float32).ravel(), places.ravel(), starts)
        self._slice = sparse.csr_matrix(entries, shape=(points, len(keys)))
        self._splat = self._slice.T.tocsr()
        self._blurs = [_blur(keys, offset) for offset in corners.steps]

    def filter(self, values: Float32) -> Float32:
        """K @ values for float32 (N, C)."""
        grid = self._splat @ values
        for blur in self._blurs:
            grid = blur @ grid
        out: Float32 = self._slice @ grid
        return out


class _Corners:
    """Addresses int64 (d + 1, N) of the corners of every point's simplex, and the address steps of the d + 1 axes."""

    def __init__(self, origin: Int64, rank: Int64) -> None:
        sides, points = origin.shape  # sides = d + 1
        low = origin.min(axis=1) - 2 * sides
        spans = origin.max(axis=1) + 2 * sides - low + 1
        radix = [1]
        for span in spans[: sides - 2]:
            radix.append(radix[-1] * int(span))
        if radix[-1] * int(spans[sides - 2]) >= 2**62:
            raise ValueError("the kernel is too narrow for the range of its features; raise the standard deviations")
        places = np.array([*radix, 0], dtype=np.int64)  # the last coordinate follows from the others
        base = places @ (origin - low[:, None])
        by_rank = np.zeros((sides + 1, points), dtype=np.int64)
        np.put_along_axis(by_rank, rank, np.broadcast_to(places[:, None], rank.shape), axis=0)
        # Corner k adds k to every coordinate and takes d + 1 from those among the last k ranks.
        tails = np.cumsum(by_rank[::-1], axis=0)[:sides]
        total = int(places.sum())
        self.addresses: Int64 = base + np.arange(sides)[:, None] * total - sides * tails
        self.steps: list[int] = [total - sides * int(place) for place in places]


def _simplices(features: NDArray[np.float64]) -> tuple[_Corners, NDArray[np.float64]]:
    """Enclosing simplex of each point (d, N) and its barycentric weights (d + 1, N), which are >= 0 and sum to 1."""
    elevated = _elevate(features)
    sides, points = elevated.shape
    origin = np.rint(elevated / sides).astype(np.int64) * sides
    rest = elevated - origin
    rank = np.zeros((sides, points), dtype=np.int64)
    for i in range(sides):
        for j in range(i + 1, sides):
            below = rest[i] < rest[j]
            rank[i] += below
            rank[j] += ~below
    # Rounding may leave the plane of coordinate sum 0; walk back along the coordinates that were rounded furthest.
    rank += origin.sum(axis=0) // sides
    wrap = sides * ((rank < 0).astype(np.int64) - (rank >= sides))
    rank += wrap
    origin += wrap
    ordered = np.empty_like(elevated)
    np.put_along_axis(ordered, rank, (elevated - origin) / sides, axis=0)
    weights = np.empty_like(elevated)
    weights[0] = 1 + ordered[-1] - ordered[0]
    weights[1:] = (ordered[:-1] - ordered[1:])[::-1]
    return _Corners(origin, rank), weights


def _elevate(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map (d, N) onto the plane of coordinate sum 0 in d + 1 dimensions, scaled so that the three-tap blur has unit
    variance.
    """
    dims = features.shape[0]
    basis = np.zeros((dims + 1, dims))
    for i in range(dims):
        basis[: i + 1, i] = 1
        basis[i + 1, i] = -(i + 1)
        basis[:, i] /= np.sqrt((i + 1) * (i + 2))
    lifted: NDArray[np.float64] = (basis * np.sqrt(2 / 3) * (dims + 1)) @ features
    return lifted


def _blur(keys: Int64, step: int) -> sparse.csr_matrix:
    """Identity + half of both neighbours along one axis; corners that hold no point are left out."""
    size = len(keys)
    wanted = keys + step
    found = np.minimum(np.searchsorted(keys, wanted), size - 1)
    here = np.flatnonzero(keys[found] == wanted)
    there = found[here]
    half = sparse.csr_matrix((np.full(len(here), 0.5, dtype=np.float32), (here, there)), shape=(size, size))
    return (half + half.T + sparse.identity(size, dtype=np.float32, format="csr")).tocsr()
