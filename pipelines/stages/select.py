"""Stage select: all score shards and near-duplicate pairs of a run to RUN/decisions.parquet, one decision a sample."""

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pyarrow as pa

from maskmill.curation.select import SCORE_COLUMNS, SelectConfig, decide
from maskmill.data_contracts import DECISION, NEIGHBOUR, SCORE, config_hash, list_shards, read_shard
from maskmill.pipelines.core.stage import Stage, StageResult, Unit

NAME = "select"
VERSION = 2
READERS = 8


def select_units(run_dir: str) -> list[Unit]:
    """One unit: every score shard and RUN/neighbours.parquet to RUN/decisions.parquet. [] before anything is scored."""
    shards = list_shards(f"{run_dir}/scores")
    inputs = (*shards, f"{run_dir}/neighbours.parquet")
    return [Unit(inputs=inputs, outputs=(f"{run_dir}/decisions.parquet",))] if shards else []


def select_stage(config: SelectConfig) -> Stage:
    """Decide on every scored sample. Needs no model: a changed threshold costs a read of the scores (without
    embeddings).
    """

    def process(unit: Unit) -> StageResult:
        *shards, pairs = unit.inputs
        selection = decide(read_scores(shards), pl.DataFrame(read_shard(pairs, NEIGHBOUR)), config)
        table = selection.decisions.to_arrow().cast(DECISION.schema)
        return StageResult((table,), selection.counts)

    return Stage(NAME, VERSION, (DECISION,), config_hash(config), process)


def read_scores(shards: list[str]) -> pl.DataFrame:
    """All rows of the score shards, without embeddings, with the shard's file name in `shard`."""

    def read(path: str) -> pa.Table:
        table = read_shard(path, SCORE, list(SCORE_COLUMNS))
        name = pa.array([path.rsplit("/", 1)[-1]] * table.num_rows, pa.string())
        return table.replace_schema_metadata(None).append_column("shard", name)

    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(read, shards))
    return pl.DataFrame(pa.concat_tables(tables))
