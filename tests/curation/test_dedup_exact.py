"""Near-duplicates by exact values: defaults, the threshold itself, blocks, and each backend's own options."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from maskmill.curation.dedup import (
    DedupConfig,
    TooManyPairsError,
    clusters,
    find_pairs,
    inverted,
    keep_best,
    neighbours,
    recall,
    room,
    search,
)
from maskmill.curation.dedup import config as configs
from tests.curation.score_tables import pairs

DEFAULTS: dict[str, Any] = {
    "enabled": True,
    "backend": "auto",
    "threshold": 0.92,
    "k": 64,
    "nprobe": 16,
    "max_pairs": 50_000_000,
    "test_sets": (),
}


def test_defaults_and_constants() -> None:
    assert DedupConfig().model_dump() == DEFAULTS
    assert (search.SLACK, search.DECIMALS, search.BLOCK) == (1e-4, 6, 2048)


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@pytest.mark.parametrize("backend", ["exact", "faiss_flat", "faiss_hnsw"])
def test_a_pair_at_the_threshold_counts_by_its_rounded_cosine(backend: str) -> None:
    vectors = at_angles(0, 60, 130)
    found = neighbours(["a", "b", "c"], vectors, DedupConfig(backend=backend, threshold=0.5))  # type: ignore[arg-type]
    assert found.to_pylist() == [{"sample_id": "a", "other_id": "b", "similarity": 0.5, "other_set": "self"}]
    above = DedupConfig(backend=backend, threshold=0.500001)  # type: ignore[arg-type]
    assert neighbours(["a", "b", "c"], vectors, above).num_rows == 0


def test_pairs_are_sorted_by_both_ids() -> None:
    found = neighbours(["c", "a", "b"], at_angles(20, 0, 10), DedupConfig(threshold=0.9)).to_pylist()
    assert [(row["sample_id"], row["other_id"]) for row in found] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(150, 8)).astype(np.float32)
    config = DedupConfig(threshold=0.3)
    whole, across = find_pairs(vectors, vectors, config), find_pairs(vectors[:70], vectors[70:], config)
    monkeypatch.setattr(search, "BLOCK", 4)
    for backend in ("exact", "faiss_flat", "faiss_hnsw"):
        asked = config.model_copy(update={"backend": backend, "k": 200})
        rows, columns, cosines = find_pairs(vectors, vectors, asked)
        upper, wanted = rows < columns, whole[0] < whole[1]
        assert list(zip(rows[upper], columns[upper], strict=True)) == list(
            zip(whole[0][wanted], whole[1][wanted], strict=True)
        )
        assert cosines[upper].tolist() == whole[2][wanted].tolist()
        for one, other in zip(find_pairs(vectors[:70], vectors[70:], asked), across, strict=True):
            assert one.tolist() == other.tolist()


def test_lengths_do_not_count() -> None:
    vectors = at_angles(0, 60) * np.array([[3.0], [0.5]], np.float32)
    _, _, cosines = find_pairs(vectors, vectors, DedupConfig(threshold=0.0))
    assert set(cosines.tolist()) == {1.0, 0.5}


def test_the_limit_of_pairs_is_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.ones((3, 2), np.float32)
    monkeypatch.setattr(search, "BLOCK", 1)  # pairs come block by block, and are counted together
    found = len(find_pairs(vectors, vectors, DedupConfig())[0])
    assert len(find_pairs(vectors, vectors, DedupConfig(max_pairs=found))[0]) == found
    with pytest.raises(TooManyPairsError, match=f"more than {found - 1} pairs"):
        find_pairs(vectors, vectors, DedupConfig(max_pairs=found - 1))


def test_bad_vectors_are_named() -> None:
    good = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"base: expected finite float32 \(N, D\)"):
        find_pairs(good, np.array([[np.inf, 1.0]], np.float32), DedupConfig())
    with pytest.raises(ValueError, match=r"queries: expected finite float32 \(N, D\), found \(2,\)"):
        find_pairs(good[0], good, DedupConfig())


def test_inverted_lists_search_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    made: list[tuple[int, int]] = []
    real = faiss.IndexFlatIP.search

    def noted(index: Any, x: Any, k: int, *args: Any, **options: Any) -> Any:
        made.append((index.ntotal, k))
        return real(index, x, k, *args, **options)

    vectors = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    monkeypatch.setattr(faiss.IndexFlatIP, "search", noted)
    for nprobe in (3, 50):
        find_pairs(vectors, vectors, DedupConfig(backend="faiss_ivf", nprobe=nprobe))
    assert made == [(10, 3), (10, 10)]  # 39 points a list
    find_pairs(vectors[:7], vectors, DedupConfig(backend="faiss_ivf", nprobe=3))
    assert made[2:] == [(10, 3), (10, 1)]  # lists of the queries, and the one list of each that is searched


def test_all_lists_together_are_the_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted, "BLOCK", 64)
    vectors = np.random.default_rng(1).normal(size=(1000, 8)).astype(np.float32)
    for queries in (vectors, vectors[:300].copy()):
        wanted = find_pairs(queries, vectors, DedupConfig(backend="faiss_flat", threshold=0.8))
        found = find_pairs(queries, vectors, DedupConfig(backend="faiss_ivf", threshold=0.8, nprobe=1000))
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))


def test_lists_of_a_set() -> None:
    assert [inverted.list_count(n) for n in (1, 38, 78, 100_000, 1_000_000)] == [1, 1, 2, 632, 2000]


def test_auto_is_exact_for_small_sets_and_says_where_large_ones_lack_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = DedupConfig()
    assert [configs.backend_for(auto, n) for n in (configs.EXACT_UP_TO, configs.EXACT_UP_TO + 1)] == [
        "exact",
        "faiss_ivf",
    ]
    assert configs.backend_for(DedupConfig(backend="faiss_hnsw"), 1) == "faiss_hnsw"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert configs.dedup_backend("auto") == configs.backend_for(auto, 10) == "exact"
    with pytest.warns(RuntimeWarning, match="faiss is not installed"):
        assert configs.backend_for(auto, configs.EXACT_UP_TO + 1) == "exact"


def test_vectors_lie_in_a_file_where_memory_is_short(tmp_path: Path) -> None:
    in_memory, on_disk = room.room_for(3, 4, free=2 * 48), room.room_for(3, 4, free=2 * 48 - 1)
    assert not isinstance(in_memory, np.memmap)
    assert isinstance(on_disk, np.memmap)
    on_disk[:] = at_angles(0, 60, 130) @ np.ones((2, 4), np.float32)
    assert on_disk.shape == in_memory.shape
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:      7 kB\n")
    assert room.free_memory(tmp_path, tmp_path / "meminfo") == 7 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert room.free_memory(tmp_path, tmp_path / "meminfo") == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert room.free_memory(tmp_path, tmp_path / "none") is None


def test_faiss_has_its_threads_back_and_finds_itself_besides_k() -> None:
    import faiss

    faiss.omp_set_num_threads(3)
    try:
        vectors = at_angles(0, 1, 2, 3)
        found = find_pairs(vectors, vectors, DedupConfig(backend="faiss_hnsw", k=3, threshold=0.9))
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(1)
    assert len(found[0]) == 16
    assert len(find_pairs(vectors, vectors, DedupConfig(backend="faiss_hnsw", k=1, threshold=0.9))[0]) == 8


def test_faiss_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configs.dedup_backend("faiss_ivf") == "faiss_ivf"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert configs.dedup_backend("exact") == "exact"


# clusters and keep-best


def test_clusters_at_their_threshold() -> None:
    found = pairs(("a", "b", 0.95), ("c", "d", 0.94))
    assert clusters(found, 0.95).rows() == [("a", "a"), ("b", "a")]
    assert clusters(found).rows() == [("a", "a"), ("b", "a"), ("c", "c"), ("d", "c")]


def test_a_sample_falls_to_its_most_similar_better_neighbour_and_of_equals_to_the_better() -> None:
    order = pl.Series(["a", "b", "c"])
    assert keep_best(pairs(("a", "c", 0.97), ("b", "c", 0.99)), order).rows() == [("c", "b", np.float32(0.99), "self")]
    assert keep_best(pairs(("a", "c", 0.97), ("b", "c", 0.97)), order)["other_id"].to_list() == ["a"]
    chain = pairs(("a", "b", 0.99), ("b", "c", 0.99), ("c", "d", 0.99))
    assert keep_best(chain, pl.Series(list("abcd")))["sample_id"].to_list() == ["b", "d"]


def test_chains_name_their_best_and_their_largest_similarity() -> None:
    order = pl.Series(["c", "a", "b", "x", "y"])
    found = keep_best(pairs(("a", "b", 0.95), ("b", "c", 0.97), ("x", "y", 0.99)), order, chains=True)
    assert sorted(found.rows()) == [
        ("a", "c", np.float32(0.95), "self"),
        ("b", "c", np.float32(0.97), "self"),
        ("y", "x", np.float32(0.99), "self"),
    ]


def test_a_sample_is_no_duplicate_of_itself() -> None:
    assert keep_best(pairs(("a", "a", 1.0)), pl.Series(["a"])).is_empty()
    assert keep_best(pairs(("a", "a", 1.0)), pl.Series(["a"]), chains=True).is_empty()


def test_recall_is_of_the_reference() -> None:
    one, two = (neighbours(["a", "b", "c"], at_angles(0, 10, d), DedupConfig(threshold=0.9)) for d in (20, 80))
    assert (one.num_rows, two.num_rows) == (3, 1)
    assert recall(one, two) == 1.0
    assert recall(two, one) == pytest.approx(1 / 3)
    assert recall(one, one.slice(0, 0)) == 1.0
