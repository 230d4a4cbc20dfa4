"""Stage dedup: all score shards of a run to RUN/neighbours.parquet, the near-duplicate pairs and the leaks into test
sets.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskmill.curation.dedup import DedupConfig, dedup_backend, leakage, neighbours
from maskmill.curation.dedup.room import room_for
from maskmill.data_contracts import NEIGHBOUR, SCORE, config_hash, list_shards, read_footer, read_shard
from maskmill.pipelines.core.stage import Stage, StageResult, Unit

NAME = "dedup"
VERSION = 1


def dedup_units(run_dir: str) -> list[Unit]:
    """One unit: every score shard to RUN/neighbours.parquet. [] before anything is scored."""
    shards = tuple(list_shards(f"{run_dir}/scores"))
    return [Unit(inputs=shards, outputs=(f"{run_dir}/neighbours.parquet",))] if shards else []


def dedup_stage(config: DedupConfig) -> Stage:
    """Search near-duplicates by stored embeddings. The backend that runs here and the test sets' contents are in the
    config hash.

    Raises:
        FileNotFoundError: a test set without score shards.
    """
    settings = config.model_dump(mode="json") | {"backend": dedup_backend(config.backend)}
    settings["test_sets"] = [{"name": t.name, "contents": _contents(t.scores)} for t in config.test_sets]

    def process(unit: Unit) -> StageResult:
        table = _search(unit, config) if config.enabled else NEIGHBOUR.table([])
        names = table.column("other_set").to_pylist()
        return StageResult((table,), {"pairs": names.count("self"), "leaks": len(names) - names.count("self")})

    return Stage(NAME, VERSION, (NEIGHBOUR,), config_hash(settings), process)


def _search(unit: Unit, config: DedupConfig) -> pa.Table:
    ids, vectors = _embeddings(unit.inputs)
    tables = [neighbours(ids, vectors, config)]
    for test_set in sorted(config.test_sets, key=lambda t: t.name):
        shards = tuple(list_shards(test_set.scores))
        _warn_of_other_scores(unit.inputs[0], shards[0], test_set.name)
        tables.append(leakage(ids, vectors, *_embeddings(shards), config, test_set.name))
    return pa.concat_tables(tables)


def _embeddings(shards: tuple[str, ...]) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    """Ids of all rows that have an embedding, ascending and each once, and their unit vectors float32 (N, D). The
    shards are read twice, one at a time: each vector goes to its place at once, and none is in memory twice.
    """
    ids = [table.column("sample_id").to_numpy() for table in _embedded(shards)]
    names, first = np.unique(np.concatenate([np.empty(0, object), *ids]), return_index=True)
    place = np.full(sum(map(len, ids)), -1)
    place[first] = np.arange(len(names))
    vectors, start = np.empty((0, 1), np.float32), 0
    for table in _embedded(shards):
        flat = table.column("embedding").combine_chunks().flatten().to_numpy()
        rows, found = place[start : start + table.num_rows], flat.reshape(table.num_rows, -1)
        if start == 0:
            vectors = room_for(len(names), found.shape[1])
        vectors[rows[rows >= 0]] = found[rows >= 0]
        start += table.num_rows
    return names, vectors


def _embedded(shards: tuple[str, ...]) -> Iterator[pa.Table]:
    """Ids and embeddings of each shard that has some."""
    for path in shards:
        table = read_shard(path, SCORE, ["sample_id", "embedding"])
        table = table.filter(table.column("embedding").is_valid())
        if table.num_rows:
            yield table


def _contents(folder: str) -> list[str]:
    footers = [read_footer(path) for path in list_shards(folder)]
    if not footers:
        raise FileNotFoundError(
            f"{folder}: no score shards of a test set there; score it first, or correct dedup.test_sets"
        )
    return [footer.content for footer in footers if footer is not None]


def _warn_of_other_scores(ours: str, theirs: str, name: str) -> None:
    """Embeddings of another CLIP cannot be compared; another score config may mean just that."""
    first, second = read_footer(ours), read_footer(theirs)
    if first and second and first.config_hash != second.config_hash:
        warnings.warn(
            f"test set {name} was scored with another config than this run; leaks are found only if both used one CLIP",
            RuntimeWarning,
            stacklevel=2,
        )
