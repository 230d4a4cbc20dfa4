"""Stage select: all score shards and near-duplicate pairs of a run to RUN/decisions.parquet, one decision a sample."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from maskmill.curation.select import SCORE_COLUMNS, SelectConfig, decide
from maskmill.curation.select.company import company
from maskmill.data_contracts import DECISION, NEIGHBOUR, SAMPLE, SCORE, config_hash, list_shards, read_shard
from maskmill.pipelines.core.stage import Stage, StageResult, Unit

NAME = "select"
VERSION = 3
READERS = 8


def select_units(run_dir: str) -> list[Unit]:
    """One unit: every score shard, RUN/neighbours.parquet and the sample shards (only clip and frame are read) to
    RUN/decisions.parquet. [] before anything is scored.
    """
    shards = list_shards(f"{run_dir}/scores")
    inputs = (*shards, f"{run_dir}/neighbours.parquet", *list_shards(f"{run_dir}/samples"))
    return [Unit(inputs=inputs, outputs=(f"{run_dir}/decisions.parquet",))] if shards else []


def select_stage(config: SelectConfig) -> Stage:
    """Decide on every scored sample. Needs no model: a changed threshold costs a read of the scores (without
    embeddings).
    """

    def process(unit: Unit) -> StageResult:
        at = next(i for i, path in enumerate(unit.inputs) if path.endswith("/neighbours.parquet"))
        scores = read_scores(list(unit.inputs[:at]), list(unit.inputs[at + 1 :]))
        if config.swap == "drop":
            scores = scores.join(read_company(list(unit.inputs[:at])), on="sample_id", how="left")
        selection = decide(scores, pl.DataFrame(read_shard(unit.inputs[at], NEIGHBOUR)), config)
        table = selection.decisions.to_arrow().cast(DECISION.schema)
        return StageResult((table,), selection.counts)

    return Stage(NAME, VERSION, (DECISION,), config_hash(config), process)


def read_scores(shards: list[str], samples: list[str] | None = None) -> pl.DataFrame:
    """All rows of the score shards, without embeddings, with the shard's file name in `shard` and, where the sample
    shards are given, the clip or volume of the frames and slices among them in `clip`.
    """

    def read(path: str) -> pa.Table:
        table = read_shard(path, SCORE, list(SCORE_COLUMNS))
        name = pa.array([path.rsplit("/", 1)[-1]] * table.num_rows, pa.string())
        return table.replace_schema_metadata(None).append_column("shard", name)

    def read_places(path: str) -> pa.Table:
        return read_shard(path, SAMPLE, ["sample_id", "group", "index"]).replace_schema_metadata(None)

    with ThreadPoolExecutor(READERS) as pool:
        scores = pl.DataFrame(pa.concat_tables(pool.map(read, shards)))
        if not samples:
            return scores
        places = pl.DataFrame(pa.concat_tables(pool.map(read_places, samples)))
    clips = places.filter(pl.col("index").is_not_null()).select("sample_id", clip="group")
    return scores.join(clips.unique("sample_id", keep="first", maintain_order=True), on="sample_id", how="left")


def read_company(shards: list[str]) -> pl.DataFrame:
    """What `company` says of the samples of one class, from the embeddings of the score shards."""

    def read(path: str) -> pa.Table:
        table = read_shard(path, SCORE, ["sample_id", "label_ids", "embedding"])
        one = pc.equal(pc.list_value_length(table.column("label_ids")), 1)
        return table.filter(pc.and_(one, table.column("embedding").is_valid())).replace_schema_metadata(None)

    with ThreadPoolExecutor(READERS) as pool:
        table = pa.concat_tables(pool.map(read, shards)).combine_chunks()
    if not table.num_rows:
        return company([], [], np.empty((0, 1), dtype=np.float32))
    labels, vectors = (table.column(name).combine_chunks().flatten().to_numpy() for name in ("label_ids", "embedding"))
    return company(table.column("sample_id").to_pylist(), labels, vectors.reshape(table.num_rows, -1))
