"""Pairs of vectors at least as similar as a threshold: the exact reference, and faiss indexes that must agree with it.

Every backend only proposes candidates; the cosine of a candidate is then computed once more, in float64, from its two
vectors alone. So recorded similarities do not depend on backend, block size, device or the company a sample was in.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.curation.dedup.config import DedupConfig, backend_for
from maskmill.curation.dedup.inverted import inverted_lists
from maskmill.vision.device import pick_device

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Pairs = tuple[Int64, Int64, Float32]  # row of the query, row of the base, cosine

SLACK = 1e-4  # candidates this far below the threshold are looked at again in float64
DECIMALS = 6
BLOCK = 2048
ROWS = 65_536  # looked at together where all values must be finite
Search = Callable[[Float32, Float32, float, DedupConfig], Iterator[tuple[Int64, Int64]]]


class TooManyPairsError(ValueError):
    """The threshold is so low that the pairs would not fit; names the limit and the fix."""


def find_pairs(queries: Float32, base: Float32, config: DedupConfig, threshold: float | None = None) -> Pairs:
    """All (query, base) pairs with cosine >= threshold (default: the config's), sorted by query row, then base row.

    Args:
        queries: float32 (M, D) unit vectors.
    base: float32 (N, D) unit vectors. May be `queries` itself: then a pair may be listed from one side only, and each
            row is found to match itself.

    Raises:
        ValueError: not two-dimensional, different widths, or values that are not finite.
        TooManyPairsError: more than `config.max_pairs`.
    """
    same = queries is base
    queries = _unit(queries, "queries")
    base = queries if same else _unit(base, "base")
    if queries.shape[1] != base.shape[1]:
        raise ValueError(
            f"embeddings of {queries.shape[1]} and of {base.shape[1]} numbers: score both with the same CLIP"
        )
    least = config.threshold if threshold is None else threshold
    found: list[Pairs] = []
    total = 0
    if len(queries) and len(base):
        for rows, columns in _SEARCHES[backend_for(config, len(base))](queries, base, least - SLACK, config):
            pairs = _confirm(queries, base, rows, columns, least)
            found.append(pairs)
            total += len(pairs[0])
            if total > config.max_pairs:
                raise TooManyPairsError(
                    f"more than {config.max_pairs} pairs at cosine >= {least}: raise dedup.threshold"
                )
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    rows, columns, cosines = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((columns, rows))
    return rows[order], columns[order], cosines[order]


def _unit(vectors: Float32, name: str) -> Float32:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or not all(np.isfinite(vectors[i : i + ROWS]).all() for i in range(0, len(vectors), ROWS)):
        raise ValueError(f"{name}: expected finite float32 (N, D), found {vectors.shape}")
    return vectors


def _confirm(queries: Float32, base: Float32, rows: Int64, columns: Int64, least: float) -> Pairs:
    """Candidates with their cosine in float64, rounded to 6 decimals; those below the threshold are dropped."""
    cosines = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK * 16):
        part = slice(start, start + BLOCK * 16)
        a, b = queries[rows[part]].astype(np.float64), base[columns[part]].astype(np.float64)
        lengths = np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
        cosines[part] = (a * b).sum(axis=1) / lengths
    cosines = np.round(cosines, DECIMALS)
    keep = cosines >= least
    return rows[keep], columns[keep], cosines[keep].astype(np.float32)


def _exact(queries: Float32, base: Float32, least: float, config: DedupConfig) -> Iterator[tuple[Int64, Int64]]:
    """Blocked matrix products in torch, on the GPU where there is one."""
    import torch

    device = pick_device()
    right = torch.from_numpy(base).to(device).T
    for start in range(0, len(queries), BLOCK):
        left = torch.from_numpy(queries[start : start + BLOCK]).to(device)
        for column in range(start if queries is base else 0, len(base), BLOCK * 8):
            hits = (left @ right[:, column : column + BLOCK * 8] >= least).nonzero().cpu().numpy()
            yield hits[:, 0] + start, hits[:, 1] + column


def _faiss_flat(queries: Float32, base: Float32, least: float, config: DedupConfig) -> Iterator[tuple[Int64, Int64]]:
    import faiss

    index = faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    yield from _range_search(index, queries, least)


def _faiss_ivf(queries: Float32, base: Float32, least: float, config: DedupConfig) -> Iterator[tuple[Int64, Int64]]:
    yield from inverted_lists(queries, base, least, config.nprobe)


def _range_search(index: Any, queries: Float32, least: float) -> Iterator[tuple[Int64, Int64]]:
    for start in range(0, len(queries), BLOCK):
        limits, _, columns = index.range_search(queries[start : start + BLOCK], float(np.nextafter(least, -1)))
        counts = np.diff(limits.astype(np.int64))
        yield np.repeat(np.arange(len(counts)), counts) + start, columns.astype(np.int64)


def _faiss_hnsw(queries: Float32, base: Float32, least: float, config: DedupConfig) -> Iterator[tuple[Int64, Int64]]:
    """Navigable small-world graph, the k nearest of each query. One thread builds it: with more, runs differ."""
    import faiss

    threads = faiss.omp_get_max_threads()
    index = faiss.IndexHNSWFlat(base.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.hnsw.efSearch = max(128, 2 * config.k)
    faiss.omp_set_num_threads(1)
    try:
        index.add(base)
    finally:
        faiss.omp_set_num_threads(threads)
    for start in range(0, len(queries), BLOCK):
        cosines, columns = index.search(queries[start : start + BLOCK], min(config.k + 1, len(base)))
        rows, places = np.nonzero((cosines >= least) & (columns >= 0))
        yield rows + start, columns[rows, places]


_SEARCHES: dict[str, Search] = {
    "exact": _exact,
    "faiss_flat": _faiss_flat,
    "faiss_ivf": _faiss_ivf,
    "faiss_hnsw": _faiss_hnsw,
}
