"""What a report shows, gathered from a run folder into plain values; pixels are read for the chosen samples only."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    SCORE,
    LabelSpace,
    Reason,
    Relabel,
    content_id,
    list_shards,
    read_footer,
    read_shard,
)
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.ledger import KEPT
from maskmill.pipelines.report.words import SCORES

ORIGIN = {"source": "source", "file": "source_path", "prompt": "prompt", "model": "model_id"}
"""Columns of the report's rows, and the fields of a sample's provenance that they hold."""


class ReportConfig(BaseModel):
    """What the report shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_reason: int = Field(
        default=12,
        ge=1,
        description="pictures chosen by hash for each reason, and as many of its worst; twice that for kept",
    )
    groups: int = Field(default=12, ge=0, description="groups of near-duplicates")
    thumbnail: int = Field(default=288, ge=32, le=640, description="longer side of a picture, pixels")
    max_bytes: int = Field(default=8_000_000, description="fewer pictures are shown until the page fits")
    seed: int = Field(default=0, description="another seed shows other samples")
    previous: str | None = Field(default=None, description="run folder (or its decisions.parquet) to compare with")


class Timing(BaseModel):
    """How long a stage took."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    seconds: float
    rows: int = 0
    device: str = ""
    bare: float | None = None  # images a second of the model alone

    @property
    def rate(self) -> float | None:
        return self.rows / self.seconds if self.rows and self.seconds > 0 else None

    @property
    def share(self) -> float | None:
        """Its rate as a share of the bare model's."""
        return self.rate / self.bare if self.rate and self.bare else None


@dataclass(frozen=True)
class Tables:
    """One row a sample that was ingested: its decision joined with its scores, classes and planted fault."""

    rows: pl.DataFrame
    rejects: pl.DataFrame  # what ingest turned away

    @property
    def kept(self) -> pl.DataFrame:
        return self.rows.filter(pl.col("kept"))


def load_tables(run_dir: str) -> Tables:
    """Read decisions, scores (without embeddings) and samples (without pixels) of a run."""
    decisions = _frame([f"{run_dir}/decisions.parquet"], DECISION.schema.names, DECISION.schema)
    samples = _samples(list_shards(f"{run_dir}/samples"))
    columns = ["sample_id", *SCORES, "n_classes"]
    scores = _frame(list_shards(f"{run_dir}/scores"), columns, SCORE.schema)
    rows = decisions.join(samples, on="sample_id", how="left").join(scores, on="sample_id", how="left")
    rows = rows.with_columns(leaves_as=_leaves_as(rows))
    rejects = _frame(list_shards(f"{run_dir}/rejects"), DECISION.schema.names, DECISION.schema)
    return Tables(rows.sort("sample_id"), rejects.sort("sample_id"))


def _leaves_as(rows: pl.DataFrame) -> pl.Series:
    """Classes of each sample as it leaves: those of its mask, but for what people relabelled."""
    if rows["relabel_to"].null_count() == rows.height:
        return rows["class_ids"].cast(pl.List(pl.Int32))
    told = rows.select("class_ids", "relabel_from", "relabel_to").iter_rows(named=True)
    ids = [relabel.ids(row["class_ids"] or []) if (relabel := Relabel.of(row)) else row["class_ids"] for row in told]
    return pl.Series("leaves_as", ids, dtype=pl.List(pl.Int32))


def _frame(paths: list[str], columns: list[str], schema: pa.Schema) -> pl.DataFrame:
    contract = DECISION if schema is DECISION.schema else SCORE
    tables = [read_shard(path, contract, columns) for path in paths if read_footer(path) is not None]
    empty = schema.empty_table().select(columns)
    frame = pl.from_arrow(pa.concat_tables([t.replace_schema_metadata(None) for t in (empty, *tables)]))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"{paths}: expected a table")
    return frame


def _samples(paths: list[str]) -> pl.DataFrame:
    """Id, classes, origin and planted fault of every sample."""
    columns = ["sample_id", "class_ids", "provenance"]
    tables = [read_shard(path, SAMPLE, columns).replace_schema_metadata(None) for path in paths]
    empty = pa.schema([SAMPLE.schema.field(name) for name in columns]).empty_table()
    frame = pl.DataFrame(pa.concat_tables([*tables, empty.cast(tables[0].schema) if tables else empty]))
    origin = [pl.col("provenance").struct.field(field).alias(name) for name, field in ORIGIN.items()]
    extra = frame["provenance"].struct.field("extra")
    planted = extra.str.contains('"fault"', literal=True).fill_null(False)
    faults = [fault_of(text) if may_be else None for text, may_be in zip(extra, planted, strict=True)]
    fault = pl.Series("fault", faults, pl.String)
    return frame.select("sample_id", pl.col("class_ids").cast(pl.List(pl.Int32)), *origin, fault)


def fault_of(extra: str | None) -> str | None:
    """The planted fault that a sample's provenance names (`{"fault": "shifted_mask"}`), or None."""
    if not extra:
        return None
    try:
        found = parse_json(extra)
    except ValueError:
        return None
    fault = found.get("fault") if isinstance(found, dict) else None
    return str(fault) if fault else None


class Pick:
    """Chooses ids by hash: the same ones however they are ordered. Another seed chooses others."""

    def __init__(self, seed: int) -> None:
        self._seed = str(seed)
        self._hashes: dict[str, str] = {}  # of the ids that were asked for, which are asked for again

    def __call__(self, ids: Iterable[str], count: int) -> list[str]:
        return sorted(ids, key=self._hash)[:count]

    def _hash(self, sample_id: str) -> str:
        found = self._hashes.get(sample_id)
        if found is None:
            found = self._hashes[sample_id] = content_id(self._seed, sample_id)
        return found


@dataclass(frozen=True)
class Balance:
    """A class (or a number of classes): samples before and after selection."""

    name: str
    colour: str
    before: int
    after: int

    @property
    def rate(self) -> float:
        return self.after / self.before if self.before else 0.0


def class_balance(tables: Tables, space: LabelSpace, colours: dict[int, str]) -> list[Balance]:
    """Samples that show each class, before and after; classes that never occur are left out."""
    columns = (tables.rows["class_ids"], tables.kept["leaves_as"])
    before, after = (Counter(column.explode().drop_nulls().to_list()) for column in columns)
    return [Balance(space.by_id[i].name, colours[i], before[i], after[i]) for i in space.ids if before[i] or after[i]]


def size_balance(tables: Tables) -> list[Balance]:
    """Samples with one, two, … classes, before and after."""
    before, after = (Counter(frame["class_ids"].list.len().to_list()) for frame in (tables.rows, tables.kept))
    return [Balance(str(n), "", before[n], after[n]) for n in sorted(n for n in before if n is not None)]


@dataclass(frozen=True)
class FaultRow:
    """One kind of planted fault: how many, how many were turned away, and for which reasons."""

    name: str
    planted: int
    caught: int
    reasons: dict[str, int]

    @property
    def rate(self) -> float:
        return self.caught / self.planted if self.planted else 0.0


def fault_rows(rows: pl.DataFrame) -> tuple[list[FaultRow], list[str]]:
    """Planted faults by kind, clean samples last, and the reasons that occur; both empty where nothing was planted."""
    if rows["fault"].null_count() == rows.height:
        return [], []
    reasons = [r.value for r in Reason if r is not Reason.KEPT and (rows["reason"] == r.value).any()]
    found = []
    for kind in [*sorted(rows["fault"].drop_nulls().unique().to_list()), None]:
        part = rows.filter(pl.col("fault") == kind if kind else pl.col("fault").is_null())
        counts = Counter(part.filter(~pl.col("kept"))["reason"].to_list())
        found.append(FaultRow(kind or "clean", part.height, counts.total(), dict(counts)))
    return found, reasons


@dataclass(frozen=True)
class Change:
    """Samples whose decision was one thing before and is another now; `absent` where a run does not have them."""

    before: str
    after: str
    ids: list[str]


def changes(rows: pl.DataFrame, previous: str) -> list[Change]:
    """What became of samples since another run: those kept or dropped for other reasons, new or gone; largest first."""
    path = previous if previous.endswith(".parquet") else f"{previous}/decisions.parquet"
    old = {row[0]: row[1] for row in _frame([path], ["sample_id", "reason"], DECISION.schema).iter_rows()}
    new = dict(rows.select("sample_id", "reason").iter_rows())
    moved: dict[tuple[str, str], list[str]] = defaultdict(list)
    for sample_id in sorted({*old, *new}):
        before, after = old.get(sample_id, "absent"), new.get(sample_id, "absent")
        if before != after:
            moved[before, after].append(sample_id)
    ordered = sorted(moved.items(), key=lambda item: (KEPT not in item[0], -len(item[1]), item[0]))
    return [Change(before, after, ids) for (before, after), ids in ordered]


def duplicate_groups(rows: pl.DataFrame) -> dict[str, list[str]]:
    """Near-duplicates: the id that stands for each group, and the ids that were dropped for it, most alike first."""
    found = rows.filter(pl.col("duplicate_of").is_not_null()).sort(["score", "sample_id"], descending=[True, False])
    groups: dict[str, list[str]] = defaultdict(list)
    for keeper, sample_id in found.select("duplicate_of", "sample_id").iter_rows():
        groups[keeper].append(sample_id)
    return dict(groups)


def fetch_files(
    folder: str, wanted: dict[str, set[str]], columns: tuple[str, ...] = ("image", "mask")
) -> dict[str, dict[str, object]]:
    """File columns of chosen samples, by id, from the shards of a folder; `wanted` holds ids by shard name. Reads only
    row groups that hold one; shards that are not there hold none.
    """
    found: dict[str, dict[str, object]] = {}
    for shard, ids in sorted(wanted.items()):
        fs, target = fsspec.core.url_to_fs(f"{folder}/{shard}")
        if not fs.exists(target):
            continue
        with fs.open(target, "rb") as handle:
            file = pq.ParquetFile(handle)
            for group in range(file.num_row_groups):
                present = file.read_row_group(group, columns=["sample_id"]).column(0).to_pylist()
                if ids.isdisjoint(present):
                    continue
                rows = file.read_row_group(group, columns=["sample_id", *columns])
                take = [number for number, sample_id in enumerate(present) if sample_id in ids]
                found.update({row["sample_id"]: row for row in rows.take(take).to_pylist()})
    return found
