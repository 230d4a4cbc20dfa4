"""Stage select: all score shards and near-duplicate pairs of a run to RUN/decisions.parquet, one decision a sample."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from maskmill.curation.select import SCORE_COLUMNS, SelectConfig, decide
from maskmill.curation.select.company import company
from maskmill.data_contracts import (
    DECISION,
    NEIGHBOUR,
    SAMPLE,
    SCORE,
    LabelSpace,
    config_hash,
    list_shards,
    read_shard,
)
from maskmill.pipelines.core.stage import Stage, StageResult, Unit

NAME = "select"
VERSION = 5
READERS = 8


def select_units(run_dir: str) -> list[Unit]:
    """One unit: every score shard, RUN/neighbours.parquet and the sample shards (only clip and frame are read) to
    RUN/decisions.parquet. [] before anything is scored.
    """
    shards = list_shards(f"{run_dir}/scores")
    inputs = (*shards, f"{run_dir}/neighbours.parquet", *list_shards(f"{run_dir}/samples"))
    return [Unit(inputs=inputs, outputs=(f"{run_dir}/decisions.parquet",))] if shards else []


def select_stage(config: SelectConfig, space: LabelSpace | None = None) -> Stage:
    """Decide on every scored sample. Needs no model: a changed threshold costs a read of the scores (without
    embeddings). With `space`, details name classes instead of their ids.
    """

    def process(unit: Unit) -> StageResult:
        at = next(i for i, path in enumerate(unit.inputs) if path.endswith("/neighbours.parquet"))
        scores = read_scores(list(unit.inputs[:at]), list(unit.inputs[at + 1 :]))
        if config.swap == "drop":
            scores = scores.join(read_company(list(unit.inputs[:at])), on="sample_id", how="left")
        selection = decide(scores, pl.DataFrame(read_shard(unit.inputs[at], NEIGHBOUR)), config)
        decisions = _named(_placed(selection.decisions, scores), space)
        return StageResult((decisions.to_arrow().cast(DECISION.schema),), selection.counts)

    names = {} if space is None else {str(c.id): c.name for c in space.classes}
    identity = config_hash({"select": config.model_dump(mode="json"), "names": names})
    return Stage(NAME, VERSION, (DECISION,), identity, process)


def _placed(decisions: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Decisions with the path of each sample in its source, where the sample shards were read."""
    if "source_path" not in scores.columns:
        return decisions
    paths = scores.select("sample_id", "shard", "source_path").unique(["sample_id", "shard"], keep="first")
    placed = decisions.drop("source_path").join(paths, on=["sample_id", "shard"], how="left", maintain_order="left")
    return placed.select(decisions.columns)


def _named(decisions: pl.DataFrame, space: LabelSpace | None) -> pl.DataFrame:
    """Decisions whose details say `class horse` in place of `class 13`."""
    if space is None:
        return decisions
    detail = pl.col("detail")
    found = detail.str.extract(r"\b(class \d+)\b")
    words = found.replace_strict({f"class {c.id}": f"class {c.name}" for c in space.classes}, default=found)
    named = pl.when(found.is_not_null()).then(detail.str.replace(r"\bclass \d+\b", words)).otherwise(detail)
    return decisions.with_columns(detail=named)


def read_scores(shards: list[str], samples: list[str] | None = None) -> pl.DataFrame:
    """All rows of the score shards, without embeddings, with the shard's file name in `shard` and, where the sample
    shards are given, the path in its source of each and the clip or volume of the frames and slices among them.
    """

    def read(path: str) -> pa.Table:
        table = read_shard(path, SCORE, list(SCORE_COLUMNS))
        name = pa.array([path.rsplit("/", 1)[-1]] * table.num_rows, pa.string())
        return table.replace_schema_metadata(None).append_column("shard", name)

    def read_places(path: str) -> pa.Table:
        table = read_shard(path, SAMPLE, ["sample_id", "group", "index", "provenance"]).replace_schema_metadata(None)
        paths = pc.struct_field(table.column("provenance"), "source_path")
        return table.drop_columns("provenance").append_column("source_path", paths)

    with ThreadPoolExecutor(READERS) as pool:
        scores = pl.DataFrame(pa.concat_tables(pool.map(read, shards)))
        if not samples:
            return scores
        places = pl.DataFrame(pa.concat_tables(pool.map(read_places, samples)))
    clip = pl.when(pl.col("index").is_not_null()).then(pl.col("group"))
    found = places.select("sample_id", clip=clip, source_path="source_path")
    return scores.join(found.unique("sample_id", keep="first", maintain_order=True), on="sample_id", how="left")


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
