"""Near-duplicates: every backend against the brute-force definition, clusters, keep-best and leaks."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.curation.dedup import (
    DedupConfig,
    TooManyPairsError,
    clusters,
    dedup_backend,
    find_pairs,
    keep_best,
    leakage,
    neighbours,
    recall,
)
from maskmill.data_contracts import NEIGHBOUR
from tests.curation.score_tables import pairs

BACKENDS = ["exact", "faiss_flat", "faiss_ivf", "faiss_hnsw"]
SPREAD = 0.35  # of the noise between an original and its near-duplicate, against its own length


def vectors(count: int, seed: int = 0, copies: int = 40, width: int = 64) -> np.ndarray:
    """Unit vectors around a common mean, as CLIP's are; the first `copies` are near-duplicates of the next ones."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=width) + rng.normal(size=(count, width))
    raw[:copies] = raw[copies : 2 * copies] + SPREAD * rng.normal(size=(copies, width)) * rng.random((copies, 1))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def names(count: int, seed: int = 0) -> list[str]:
    return [f"{i:016x}" for i in np.random.default_rng(seed).choice(2**60, count, replace=False)]


def brute_force(ids: list[str], x: np.ndarray, threshold: float) -> dict[tuple[str, str], float]:
    exact = x.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    cosine = exact @ exact.T
    found = {}
    for i in range(len(ids)):
        for j in range(len(ids)):
            if ids[i] < ids[j] and round(cosine[i, j], 6) >= threshold:
                found[ids[i], ids[j]] = cosine[i, j]
    return found


def as_dict(table: pa.Table) -> dict[tuple[str, str], float]:
    return {(r["sample_id"], r["other_id"]): r["similarity"] for r in table.to_pylist()}


@pytest.mark.parametrize("backend", ["exact", "faiss_flat"])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.96])
def test_exact_backends_equal_the_definition(backend: str, threshold: float) -> None:
    ids, x = names(300), vectors(300)
    found = as_dict(neighbours(ids, x, DedupConfig(backend=backend, threshold=threshold)))
    reference = brute_force(ids, x, threshold)
    assert found.keys() == reference.keys()
    assert len(found) > 5
    assert all(found[key] == pytest.approx(reference[key], abs=2e-6) for key in found)


@pytest.mark.parametrize("backend", ["faiss_flat", "faiss_ivf", "faiss_hnsw"])
def test_faiss_agrees_with_the_exact_search(backend: str) -> None:
    ids, x = names(3000), vectors(3000, copies=400)
    reference = neighbours(ids, x, DedupConfig(threshold=0.93))
    found = neighbours(ids, x, DedupConfig(backend=backend, threshold=0.93))
    assert reference.num_rows > 200
    if backend == "faiss_flat":
        assert found.equals(reference)
    assert recall(found, reference) >= 0.98
    assert as_dict(found).items() <= as_dict(reference).items()  # never a wrong pair or a wrong similarity


@pytest.mark.parametrize("backend", BACKENDS)
def test_table_is_sorted_obeys_its_contract_and_ignores_order(backend: str) -> None:
    ids, x = names(200), vectors(200)
    table = neighbours(ids, x, DedupConfig(backend=backend))
    NEIGHBOUR.check(table)
    keys = [(r["sample_id"], r["other_id"]) for r in table.to_pylist()]
    assert keys == sorted(set(keys))
    assert all(a < b for a, b in keys)
    order = np.random.default_rng(1).permutation(200)
    shuffled = neighbours([ids[i] for i in order], x[order], DedupConfig(backend=backend))
    assert shuffled.equals(table)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_sets(backend: str, count: int) -> None:
    x = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (count, 1))
    table = neighbours(names(count), x, DedupConfig(backend=backend))
    assert table.num_rows == (count == 2)


def test_a_repeated_id_is_no_neighbour_of_itself() -> None:
    x = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    assert neighbours(["a", "a", "b"], x, DedupConfig()).num_rows == 0


def test_similarity_of_a_pair_does_not_depend_on_company() -> None:
    ids, x = names(400), vectors(400)
    whole = as_dict(neighbours(ids, x, DedupConfig()))
    some = as_dict(neighbours(ids[:100], x[:100], DedupConfig()))
    assert some
    assert all(whole[key] == value for key, value in some.items())


def test_too_many_pairs_and_wrong_shapes_are_named() -> None:
    x = np.ones((60, 4), dtype=np.float32)
    with pytest.raises(TooManyPairsError, match="raise dedup"):
        neighbours(names(60), x, DedupConfig(max_pairs=100))
    with pytest.raises(ValueError, match="60 ids"):
        neighbours(names(60), x[:50], DedupConfig())
    with pytest.raises(ValueError, match="same CLIP"):
        find_pairs(x, np.ones((5, 3), dtype=np.float32), DedupConfig())
    with pytest.raises(ValueError, match="finite"):
        find_pairs(x * np.nan, x, DedupConfig())


def test_without_faiss_the_exact_search_takes_over_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert dedup_backend("exact") == "exact"
    with pytest.warns(RuntimeWarning, match="faiss is not installed"):
        assert dedup_backend("faiss_ivf") == "exact"


# leaks


@pytest.mark.parametrize("backend", BACKENDS)
def test_planted_leaks_are_found_and_nothing_else(backend: str) -> None:
    train, test = vectors(300, seed=1, copies=0), vectors(80, seed=2, copies=0)
    train[7] = test[3]
    train[8] = test[3] + 0.01 * test[4]
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    ids, test_ids = names(300), [f"t{i}" for i in range(80)]
    table = leakage(ids, train, test_ids, test, DedupConfig(backend=backend, threshold=0.95), "held-out")
    assert {(r["sample_id"], r["other_id"], r["other_set"]) for r in table.to_pylist()} == {
        (ids[7], "t3", "held-out"),
        (ids[8], "t3", "held-out"),
    }


def test_leak_check_of_empty_sets_and_reserved_name() -> None:
    x = vectors(4, copies=0)
    assert leakage([], x[:0], names(4), x, DedupConfig()).num_rows == 0
    with pytest.raises(ValueError, match="'self'"):
        leakage(names(4), x, names(4), x, DedupConfig(), "self")


# clusters and keep-best

edges = st.lists(
    st.tuples(st.integers(0, 14), st.integers(0, 14), st.sampled_from([0.93, 0.96, 0.99])).filter(
        lambda e: e[0] < e[1]
    ),
    max_size=25,
    unique_by=lambda e: e[:2],
)
LETTERS = "abcdefghijklmno"


def table_of(found: list[tuple[int, int, float]]) -> pl.DataFrame:
    return pairs(*((LETTERS[a], LETTERS[b], s) for a, b, s in found))


@settings(max_examples=50, deadline=None)
@given(found=edges, threshold=st.sampled_from([0.0, 0.95, 0.97]))
def test_clusters_are_the_connected_components(found: list[tuple[int, int, float]], threshold: float) -> None:
    parent = list(range(15))
    near = [(a, b) for a, b, s in found if s >= threshold]
    for _ in range(15):
        for a, b in near:
            parent[a] = parent[b] = min(parent[a], parent[b])
    expected = {LETTERS[i]: LETTERS[parent[i]] for i in sorted({i for edge in near for i in edge})}
    assert dict(clusters(table_of(found), threshold).iter_rows()) == expected


@settings(max_examples=50, deadline=None)
@given(found=edges, seed=st.integers(0, 100))
def test_keep_best_leaves_no_two_alike_and_drops_nobody_without_cause(found: list, seed: int) -> None:
    order = [LETTERS[i] for i in np.random.default_rng(seed).permutation(15)]
    dropped = keep_best(table_of(found), pl.Series(order, dtype=pl.String))
    gone = set(dropped["sample_id"])
    near = {(LETTERS[a], LETTERS[b]): s for a, b, s in found}
    for a, b in near:
        assert a in gone or b in gone
    for sample, better, similarity, _ in dropped.iter_rows():
        assert better not in gone
        assert order.index(better) < order.index(sample)
        assert near.get((sample, better), near.get((better, sample))) == pytest.approx(similarity)
    assert order[0] not in gone


def test_a_chain_keeps_its_ends_or_only_its_best() -> None:
    chain = pairs(("a", "b", 0.97), ("b", "c", 0.98))
    order = pl.Series(["a", "b", "c"])
    assert keep_best(chain, order)["sample_id"].to_list() == ["b"]
    one = keep_best(chain, order, chains=True).sort("sample_id")
    assert one.select("sample_id", "other_id").rows() == [("b", "a"), ("c", "a")]


def test_samples_that_are_out_already_drop_nobody() -> None:
    assert keep_best(pairs(("a", "b", 0.99)), pl.Series(["b"])).height == 0
