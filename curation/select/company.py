"""Does an image keep the company that its label says? By stored embeddings alone, whatever CLIP makes of the name.

A wrong name is seen where images of the named class look unlike this one and images of another class look like it. That
needs no text: a class that CLIP cannot name still looks like itself. Only samples of one class are judged.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]

NEAREST = 3  # images of a class that speak for it
LEAD = 0.18  # cosine by which another class must lie nearer
REFERENCES = 4096  # images that speak at all, taken evenly from every class
BLOCK = 256  # rows at a time, always as many, so that a cosine does not depend on how the set was cut into shards
COMPANY = {"sample_id": pl.String, "company": pl.Float32, "rival": pl.Float32, "rival_class_id": pl.Int32}


def company(ids: Sequence[str], labels: ArrayLike, embeddings: Float32) -> pl.DataFrame:
    """For every sample: mean cosine to the NEAREST other images of its own class (`company`) and of the class that lies
    nearest among the others (`rival`, `rival_class_id`), around the mean of all images.

    `embeddings` float32 (N, D), one class per sample in `labels`; order does not matter, an id counts once. Classes
    with no more than NEAREST images neither are judged nor speak. Sorted by sample_id.
    """
    names, first = np.unique(np.asarray(ids, dtype=object), return_index=True)
    classes = np.asarray(labels, dtype=np.int32)[first]
    known, counts = np.unique(classes, return_counts=True)
    known = known[counts > NEAREST]
    if len(known) < 2:
        return pl.DataFrame(schema=COMPANY)
    vectors = np.asarray(embeddings, dtype=np.float32)[first]
    vectors = vectors - vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    speakers = [_evenly(np.flatnonzero(classes == c), REFERENCES // len(known)) for c in known]
    cosines = np.stack([_nearest(vectors, at) for at in speakers], axis=1)
    judged = np.isin(classes, known)
    return _table(names[judged], classes[judged], known, cosines[judged])


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    most = max(most, NEAREST + 1)
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _nearest(vectors: Float32, speakers: NDArray[np.int64]) -> Float32:
    """Mean cosine of every row to its NEAREST of the `speakers`, itself left out: (N,)."""
    place = np.full(len(vectors), -1)
    place[speakers] = np.arange(len(speakers))
    block = np.zeros((BLOCK, vectors.shape[1]), dtype=np.float32)
    means = []
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        block[: len(part)] = part
        cosines = (block @ vectors[speakers].T)[: len(part)]
        own = place[start : start + BLOCK]
        cosines[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        means.append(np.partition(cosines, -NEAREST, axis=1)[:, -NEAREST:].mean(axis=1))
    return np.concatenate(means)


def _table(
    names: NDArray[np.object_], classes: NDArray[np.int32], known: NDArray[np.int32], cosines: Float32
) -> pl.DataFrame:
    at = np.arange(len(names)), np.searchsorted(known, classes)
    own = cosines[at]
    others = cosines.copy()
    others[at] = -np.inf
    rival = others.argmax(axis=1)
    columns = {"sample_id": names, "company": own, "rival": others.max(axis=1), "rival_class_id": known[rival]}
    return pl.DataFrame(columns, schema=COMPANY)
