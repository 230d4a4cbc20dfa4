"""Approximate search by inverted lists: every vector lies in the list of its nearest centre, and a query is compared
with the lists of its `probes` nearest centres alone. Vectors that are alike lie near the same centres.

J. Sivic and A. Zisserman, "Video Google", ICCV 2003; J. Johnson et al., "Billion-scale similarity search with GPUs",
2017 (faiss, whose k-means makes the centres). Lists are searched one after the other, each by one matrix product of its
members and all that ask for it: faiss goes query by query, and waits for memory most of the time.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.vision.device import pick_device

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

POINTS = 39  # vectors that a centre is learnt from; faiss asks for no fewer
ROUNDS = 5  # of k-means: the centres need not be good, only the same for all
BLOCK = 16_384  # queries assigned to centres, or compared with a list, at a time


def list_count(vectors: int) -> int:
    """About 2 sqrt(N) lists: finding the lists of a vector then costs about as much as searching them."""
    return max(1, min(int(2 * np.sqrt(vectors)), vectors // POINTS))


def inverted_lists(queries: Float32, base: Float32, least: float, probes: int) -> Iterator[tuple[Int64, Int64]]:
    """Candidates (query rows, base rows) with a product of at least `least`, list by list; each pair of one query and
    one base row once. float32 (M, D) and (N, D). k-means starts from faiss' fixed seed, so runs repeat.
    """
    import torch

    device = pick_device()
    centres, middle = _centres(base, list_count(len(base)))
    near = _nearest(centres, queries, middle, min(probes, centres.ntotal))
    home = near[:, :1] if queries is base else _nearest(centres, base, middle, 1)
    members, ends = _by_list(home, centres.ntotal)
    askers, stops = _by_list(near, centres.ntotal)
    for here in range(centres.ntotal):
        inside, asking = members[ends[here] : ends[here + 1]], askers[stops[here] : stops[here + 1]]
        right = torch.from_numpy(base[inside]).to(device).T
        for start in range(0, len(asking) if len(inside) else 0, BLOCK):
            rows = asking[start : start + BLOCK]
            hits = (torch.from_numpy(queries[rows]).to(device) @ right >= least).nonzero().cpu().numpy()
            yield rows[hits[:, 0]], inside[hits[:, 1]]


def _centres(base: Float32, lists: int) -> tuple[Any, Float32]:
    """A faiss index of unit centres, learnt from evenly spaced vectors, and the middle of these: CLIP's embeddings all
    point one way, and seen from the origin one centre would be near to every other vector.
    """
    import faiss

    some = base[np.linspace(0, len(base) - 1, min(len(base), lists * POINTS)).astype(np.int64)]
    middle = some.mean(axis=0)
    means = faiss.Kmeans(base.shape[1], lists, niter=ROUNDS, spherical=True, max_points_per_centroid=POINTS)
    means.train(_seen_from(middle, some))
    return means.index, middle


def _nearest(centres: Any, vectors: Float32, middle: Float32, count: int) -> NDArray[np.int32]:
    """The `count` nearest centres of each vector, the nearest first: int32 (N, count)."""
    blocks = range(0, len(vectors), BLOCK)
    found = [centres.search(_seen_from(middle, vectors[i : i + BLOCK]), count)[1] for i in blocks]
    return np.asarray(np.concatenate(found), dtype=np.int32)


def _seen_from(middle: Float32, vectors: Float32) -> Float32:
    """Unit vectors from the middle towards each."""
    away = vectors - middle
    length = np.linalg.norm(away, axis=1, keepdims=True)
    return np.ascontiguousarray(away / np.maximum(length, np.float32(1e-12)), dtype=np.float32)


def _by_list(lists: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows ordered by the list that they name in any column, ascending in each; where each list begins, and the end."""
    order = np.argsort(lists, axis=None, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(lists.ravel(), minlength=count))])
    return (order // lists.shape[1]).astype(np.int64), ends.astype(np.int64)
