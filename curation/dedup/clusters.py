"""What near-duplicate pairs mean: which samples hang together, and which of them go."""

import numpy as np
import polars as pl

DROPPED = {"sample_id": pl.String, "other_id": pl.String, "similarity": pl.Float32, "other_set": pl.String}


def clusters(pairs: pl.DataFrame, threshold: float = 0.0) -> pl.DataFrame:
    """Connected components of pairs (sample_id, other_id, similarity) with similarity >= threshold.

    Returns (sample_id, cluster), sorted, for every sample in a pair; a cluster is named by its smallest sample_id.
    Chains count: of three samples the outer two may be less similar than the threshold.
    """
    near = pairs.filter(pl.col("similarity") >= pl.lit(threshold, dtype=pl.Float32))
    ids = pl.concat([near["sample_id"], near["other_id"]]).unique().sort()
    labels = _components(_codes(near["sample_id"], ids), _codes(near["other_id"], ids), len(ids))
    table = pl.DataFrame({"sample_id": ids, "label": labels}, schema={"sample_id": pl.String, "label": pl.Int32})
    return table.select("sample_id", cluster=pl.col("sample_id").first().over("label"))


def keep_best(pairs: pl.DataFrame, best_first: pl.Series, *, chains: bool = False) -> pl.DataFrame:
    """Samples to drop, given near-duplicate pairs and all candidates' ids from best to worst.

    By default a sample goes if a better one that stays is a direct neighbour: no dropped sample is without a kept
    near-duplicate, and no two kept samples are near-duplicates. With `chains` one sample of each connected component
    stays, which also thins out slow changes, such as the frames of a video. Pairs with ids outside `best_first` are
    ignored.

    Returns:
    (sample_id, other_id = the better sample, similarity = that of the pair; with `chains` the sample's largest,
    other_set).
    """
    places = pl.DataFrame({"id": best_first, "place": np.arange(len(best_first))})
    edges = pairs.join(places.rename({"place": "a"}), left_on="sample_id", right_on="id")
    edges = edges.join(places.rename({"place": "b"}), left_on="other_id", right_on="id")
    edges = edges.select(better=pl.min_horizontal("a", "b"), worse=pl.max_horizontal("a", "b"), similarity="similarity")
    edges = edges.filter(pl.col("better") != pl.col("worse"))
    if edges.is_empty():
        return pl.DataFrame(schema=DROPPED)
    dropped = _one_a_component(edges, len(best_first)) if chains else _greedy(edges, len(best_first))
    worse, better, similarity = (np.array(part) for part in zip(*dropped, strict=True))
    columns = {"sample_id": best_first.gather(worse), "other_id": best_first.gather(better), "similarity": similarity}
    return pl.DataFrame(columns).with_columns(other_set=pl.lit("self")).cast(DROPPED)  # type: ignore[arg-type]


def _greedy(edges: pl.DataFrame, size: int) -> list[tuple[int, int, float]]:
    """From best to worst: a sample falls to its most similar better neighbour that still stands."""
    stands = np.ones(size, dtype=bool)
    dropped = []
    ordered = edges.sort(["worse", "similarity", "better"], descending=[False, True, False])
    for better, worse, similarity in ordered.iter_rows():
        if stands[worse] and stands[better]:
            stands[worse] = False
            dropped.append((worse, better, similarity))
    return dropped


def _one_a_component(edges: pl.DataFrame, size: int) -> list[tuple[int, int, float]]:
    labels = _components(edges["better"].to_numpy(), edges["worse"].to_numpy(), size)
    best = np.full(labels.max() + 1, size)
    np.minimum.at(best, labels, np.arange(size))
    both = pl.concat([edges.select("similarity", place="better"), edges.select("similarity", place="worse")])
    largest = both.group_by("place").agg(pl.col("similarity").max()).sort("place")
    return [(p, int(best[labels[p]]), s) for p, s in largest.iter_rows() if best[labels[p]] != p]


def _components(a: np.ndarray, b: np.ndarray, size: int) -> np.ndarray:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(size, size))
    labels: np.ndarray = connected_components(graph, directed=False)[1]
    return labels


def _codes(values: pl.Series, ids: pl.Series) -> np.ndarray:
    return np.asarray(ids.search_sorted(values))
