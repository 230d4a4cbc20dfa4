"""Does an image keep the company that its label says? By stored embeddings alone, whatever CLIP makes of the name.

A wrong name is seen where images of the named class look unlike this one and images of another class look like it. That
needs no text: a class that CLIP cannot name still looks like itself. Only samples of one class are judged.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

NEAREST = 3  # images of a class that speak for it
LEAD = 0.18  # cosine by which another class must lie nearer
REFERENCES = 2048  # images that speak at all, as many for every class
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
    cosines = _nearest(vectors, _speakers(classes, known))
    judged = np.isin(classes, known)
    return _table(names[judged], classes[judged], known, cosines[judged])


def _speakers(classes: Int32, known: Int32) -> NDArray[np.int64]:
    """Rows that speak for each of the `known` classes, taken evenly from it: (C, Q), filled up with -1."""
    found = []
    for class_id in known:
        rows = np.flatnonzero(classes == class_id)
        most = min(len(rows), max(REFERENCES // len(known), NEAREST + 1))
        found.append(rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)])
    out = np.full((len(known), max(map(len, found))), -1)
    for row, chosen in zip(out, found, strict=True):
        row[: len(chosen)] = chosen
    return out


def _nearest(vectors: Float32, speakers: NDArray[np.int64]) -> Float32:
    """Mean cosine of every row to its NEAREST speakers of each class, itself left out: (N, C)."""
    flat = speakers.ravel()
    voices = np.ascontiguousarray(vectors[flat].T)
    block = np.zeros((BLOCK, vectors.shape[1]), dtype=np.float32)
    means = []
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        block[: len(part)] = part
        cosines = (block @ voices)[: len(part)]
        own = flat[None, :] == np.arange(start, start + len(part))[:, None]
        cosines[own | (flat < 0)] = -np.inf
        by_class = cosines.reshape(len(part), *speakers.shape)
        means.append(np.partition(by_class, -NEAREST, axis=2)[:, :, -NEAREST:].mean(axis=2))
    return np.concatenate(means)


def _table(names: NDArray[np.object_], classes: Int32, known: Int32, cosines: Float32) -> pl.DataFrame:
    at = np.arange(len(names)), np.searchsorted(known, classes)
    own = cosines[at]
    others = cosines.copy()
    others[at] = -np.inf
    rival = others.argmax(axis=1)
    columns = {"sample_id": names, "company": own, "rival": others.max(axis=1), "rival_class_id": known[rival]}
    return pl.DataFrame(columns, schema=COMPANY)
