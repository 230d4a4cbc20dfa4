"""Near-duplicate pairs inside a set, and samples that a test set holds too, as rows of the NEIGHBOUR contract."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskmill.curation.dedup.config import DedupConfig
from maskmill.curation.dedup.search import Float32, Pairs, find_pairs
from maskmill.data_contracts import NEIGHBOUR

SELF = "self"
Ids = Sequence[str] | NDArray[np.object_]


def neighbours(ids: Ids, embeddings: Float32, config: DedupConfig) -> pa.Table:
    """Pairs inside one set with cosine >= config.threshold: each once, the smaller id first, sorted.

    `embeddings` float32 (N, D) are unit vectors in the order of `ids`; the order does not matter. An id that occurs
    twice counts once (rows of one id are the same sample).

    Raises:
        ValueError: as many ids as embeddings are expected; see also `find_pairs`.
    """
    names, vectors = _sorted(ids, embeddings)
    rows, columns, cosines = find_pairs(vectors, vectors, config)
    # An approximate index may see a pair from one side only: fold both sides onto the upper triangle.
    low, high = np.minimum(rows, columns), np.maximum(rows, columns)
    _, first = np.unique(low * len(names) + high, return_index=True)
    first = first[low[first] != high[first]]
    return _table(names, names, (low[first], high[first], cosines[first]), SELF)


def leakage(
    ids: Ids,
    embeddings: Float32,
    test_ids: Ids,
    test_embeddings: Float32,
    config: DedupConfig,
    test_set: str = "test",
) -> pa.Table:
    """Samples that `test_set` holds too: pairs (sample, test sample) with cosine >= config.threshold, sorted.

    Raises:
        ValueError: `test_set` is "self"; embeddings of different widths (another CLIP made them).
    """
    if test_set == SELF:
        raise ValueError(f"a test set cannot be called {SELF!r}: that name marks pairs inside the set")
    names, vectors = _sorted(ids, embeddings)
    test_names, test_vectors = _sorted(test_ids, test_embeddings)
    if not len(names) or not len(test_names):
        return NEIGHBOUR.table([])
    return _table(names, test_names, find_pairs(vectors, test_vectors, config), test_set)


def recall(found: pa.Table, reference: pa.Table) -> float:
    """Share of the pairs of `reference` that `found` has too; 1 where there is nothing to find."""
    have, want = _keys(found), _keys(reference)
    return len(have & want) / len(want) if want else 1.0


def _keys(table: pa.Table) -> set[tuple[str, str, str]]:
    columns = (table.column(name).to_pylist() for name in ("sample_id", "other_id", "other_set"))
    return set(zip(*columns, strict=True))


def _sorted(ids: Ids, embeddings: Float32) -> tuple[np.ndarray, Float32]:
    """Ids ascending, each once, with their vectors."""
    if len(ids) != len(embeddings):
        raise ValueError(f"{len(ids)} ids but {len(embeddings)} embeddings")
    names, first = np.unique(np.asarray(ids, dtype=object), return_index=True)
    vectors = np.asarray(embeddings, dtype=np.float32)
    sorted_already = len(first) == len(ids) and bool((first[1:] > first[:-1]).all())
    return names, vectors if sorted_already else vectors[first]  # no copy of what may lie on a disk


def _table(names: np.ndarray, others: np.ndarray, pairs: Pairs, other_set: str) -> pa.Table:
    rows, columns, cosines = pairs
    arrays = [
        pa.array(names[rows], pa.string()),
        pa.array(others[columns], pa.string()),
        pa.array(cosines, pa.float32()),
        pa.array([other_set] * len(rows), pa.string()),
    ]
    return pa.Table.from_arrays(arrays, schema=NEIGHBOUR.schema)
