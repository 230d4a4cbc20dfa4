"""Stage select: all score shards and near-duplicate pairs of a run to RUN/decisions.parquet, one decision a sample."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from maskmill.curation.select import SCORE_COLUMNS, SelectConfig, decide
from maskmill.curation.select.company import company
from maskmill.curation.select.quotas import cuts_nothing
from maskmill.curation.select.review import COLUMNS
from maskmill.curation.select.selection import Selection
from maskmill.curation.select.strata import column_of
from maskmill.data_contracts import (
    DECISION,
    FOR_HASH,
    NEIGHBOUR,
    SAMPLE,
    SCORE,
    VERDICT,
    LabelSpace,
    Reason,
    config_hash,
    list_shards,
    read_shard,
)
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.stage import Stage, StageResult, Unit
from maskmill.pipelines.core.verdicts import SHARD, Reviewed, Verdict

logger = logging.getLogger("maskmill")

NAME = "select"
VERSION = 5
READERS = 8


class VerdictError(ValueError):
    """A verdict that cannot be honoured under this label space."""


def select_units(run_dir: str, reviewed: Reviewed | None = None) -> list[Unit]:
    """One unit: every score shard, RUN/neighbours.parquet and the sample shards (only clip and frame are read) to
    RUN/decisions.parquet and, where people reviewed the run, RUN/verdicts.parquet. [] before anything is scored.
    """
    shards = list_shards(f"{run_dir}/scores")
    inputs = (*shards, f"{run_dir}/neighbours.parquet", *list_shards(f"{run_dir}/samples"))
    if not shards:
        return []
    decisions = f"{run_dir}/decisions.parquet"
    if reviewed is None:
        return [Unit(inputs=inputs, outputs=(decisions,))]
    return [Unit(inputs=inputs, outputs=(decisions, f"{run_dir}/{SHARD}"), stamps=(reviewed.fingerprint,))]


def select_stage(config: SelectConfig, space: LabelSpace | None = None, reviewed: Reviewed | None = None) -> Stage:
    """Decide on every scored sample. Needs no model: a changed threshold costs a read of the scores (without
    embeddings). With `space`, details name classes instead of their ids. `reviewed` holds what people said: it is
    honoured, and becomes a shard of its own.
    """

    def process(unit: Unit) -> StageResult:
        at = next(i for i, path in enumerate(unit.inputs) if path.endswith("/neighbours.parquet"))
        said = None if reviewed is None else _said(reviewed, space)
        neighbours = pl.DataFrame(read_shard(unit.inputs[at], NEIGHBOUR))
        selection = decide(_read(list(unit.inputs[:at]), list(unit.inputs[at + 1 :]), config), neighbours, config, said)
        _warn_of_no_cut(selection, config)
        counts, made = selection.counts, [_named(part, space) for part in selection.parts()]
        del selection  # its words are made; with ten million of them there is no room for both
        decisions = _table(made)
        return StageResult((decisions,) if reviewed is None else (decisions, reviewed.table()), counts)

    names = {} if space is None else {str(c.id): c.name for c in space.classes}
    identity = config_hash({"select": config.model_dump(mode="json", context=FOR_HASH), "names": names})
    contracts = (DECISION,) if reviewed is None else (DECISION, VERDICT)
    return Stage(NAME, VERSION, contracts, identity, process)


def _said(reviewed: Reviewed, space: LabelSpace | None) -> pl.DataFrame:
    """Verdicts as selection reads them.

    Raises:
        VerdictError: a class that the label space does not have, or calls otherwise by now; names the sample.
    """
    rows = []
    for verdict in reviewed.verdicts.values():
        _check_class(verdict, space)
        about = f"to {verdict.to_class} {verdict.words}" if verdict.verdict == "relabel" else verdict.words
        rows.append({**verdict.model_dump(include=set(COLUMNS)), "words": about})
    return pl.DataFrame(rows, schema=COLUMNS)


def _check_class(verdict: Verdict, space: LabelSpace | None) -> None:
    if space is None or verdict.to_class_id is None:
        return
    known = space.by_id.get(verdict.to_class_id)
    if known is None or known.name != verdict.to_class:
        found = "no such class" if known is None else f"class {known.name}"
        raise VerdictError(
            f"verdict on sample {verdict.sample_id} ({verdict.words}): expected class {verdict.to_class_id} to be "
            f"{verdict.to_class}, found {found} in label space {space.name}. Fix: judge the sample again in "
            "`maskmill review`, or take the verdict back there"
        )


def _warn_of_no_cut(selection: Selection, config: SelectConfig) -> None:
    kept = selection.counts.get(Reason.KEPT, 0)
    if kept and cuts_nothing(config, selection.rho):
        logger.warning(
            "select: %d of %d samples passed the gates, no more than the share %g that is to be kept: rho is 1, so "
            "%s rejects nothing. For a cut among them set select.rho, or let more pass (select.pcs_tau)",
            kept,
            selection.height,
            config.keep_fraction,
            config.rank_by,
        )


def _read(shards: list[str], samples: list[str], config: SelectConfig) -> pl.DataFrame:
    """All that is decided by."""
    scores = read_scores(shards, samples, config.strata)
    return scores.join(read_company(shards), on="sample_id", how="left") if config.swap == "drop" else scores


def _table(made: list[pa.Table]) -> pa.Table:
    """Parts of the decisions as a table of one piece. `made` is emptied column by column: no second copy of all of them
    is ever there.
    """
    columns = []
    for name in DECISION.schema.names:
        chunks = [chunk for part in made for chunk in part.column(name).chunks]
        columns.append(pa.chunked_array(chunks, DECISION.schema.field(name).type).combine_chunks())
        made[:] = [part.drop_columns(name) for part in made]
    return pa.Table.from_arrays(columns, schema=DECISION.schema)


def _named(decisions: pl.DataFrame, space: LabelSpace | None) -> pa.Table:
    """Rows of the DECISION contract whose details say `class horse` in place of `class 13`."""
    if space is None:
        return decisions.to_arrow().cast(DECISION.schema)
    detail = pl.col("detail")
    found = detail.str.extract(r"\b(class \d+)\b")
    words = found.replace_strict({f"class {c.id}": f"class {c.name}" for c in space.classes}, default=found)
    named = pl.when(found.is_not_null()).then(detail.str.replace(r"\bclass \d+\b", words)).otherwise(detail)
    return decisions.with_columns(detail=named).to_arrow().cast(DECISION.schema)


def read_scores(shards: list[str], samples: list[str] | None = None, strata: Sequence[str] = ()) -> pl.DataFrame:
    """All rows of the score shards, without embeddings, with the shard's file name in `shard` and, where the sample
    shards are given, the path in its source of each, the clip or volume of the frames and slices among them, and the
    `strata` that provenance names.
    """

    def read(path: str) -> pa.Table:
        return read_shard(path, SCORE, list(SCORE_COLUMNS)).replace_schema_metadata(None)

    def read_places(path: str) -> pa.Table:
        table = read_shard(path, SAMPLE, ["sample_id", "group", "index", "provenance"]).replace_schema_metadata(None)
        origin = table.column("provenance")
        for stratum in strata:
            table = table.append_column(column_of(stratum), _strata(origin, stratum))
        return table.drop_columns("provenance").append_column("source_path", pc.struct_field(origin, "source_path"))

    names = pl.Enum(sorted({path.rsplit("/", 1)[-1] for path in shards}))
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(read, shards))
        places = list(pool.map(read_places, samples or []))
    counts = [table.num_rows for table in tables]
    of_shard = pl.Series("shard", [path.rsplit("/", 1)[-1] for path in shards], dtype=names)
    at = pl.Series(np.repeat(np.arange(len(counts), dtype=np.uint32), counts))
    scores = _of_one_piece(tables).with_columns(shard=of_shard.gather(at))
    return _beside(scores, _of_one_piece(places)) if places else scores


def _of_one_piece(tables: list[pa.Table]) -> pl.DataFrame:
    """The rows of all tables, each column a single piece. `tables` is emptied column by column: no second copy of all
    of them is ever there.
    """
    columns = []
    for name in tables[0].column_names:
        columns.append(pl.Series(name, pa.chunked_array([c for t in tables for c in t.column(name).chunks])))
        tables[:] = [table.drop_columns(name) for table in tables]
    return pl.DataFrame(columns)


def _beside(scores: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    """Scores with the clip and the path of their samples, which mostly stand in the same order."""
    clip = pl.when(pl.col("index").is_not_null()).then(pl.col("group"))
    strata = [name for name in samples.columns if name.startswith(column_of(""))]
    found = samples.select("sample_id", *strata, clip=clip, source_path="source_path")
    if found.height == scores.height and (found["sample_id"] == scores["sample_id"]).all():
        return scores.hstack(found.drop("sample_id"))
    return scores.join(found.unique("sample_id", keep="first", maintain_order=True), on="sample_id", how="left")


def _strata(provenance: pa.ChunkedArray, kind: str) -> pa.Array:
    """The stratum of each row, as far as its provenance names one."""
    field = {"scene": "extra", "style": "prompt", "generator": "model_id"}[kind]
    return pa.array([_stratum(text, kind) for text in pc.struct_field(provenance, field).to_pylist()], pa.string())


def _stratum(text: str | None, kind: str) -> str | None:
    if not text or kind == "generator":
        return text
    if kind == "style":
        before, of, _ = text.partition(" of ")
        return before if of else None
    found = parse_json(text)
    scene = found.get("scene") if isinstance(found, dict) else None
    return str(scene) if scene else None


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
