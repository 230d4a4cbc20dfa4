"""The work on one sample shard of an export: which samples go out, in which state, and what that depends on."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    SCORE,
    Contract,
    LabelSpace,
    Relabel,
    config_hash,
    content_id,
    list_shards,
    read_footer,
    read_shard,
)
from maskmill.pipelines.core.ledger import KEPT, decisions_by_shard
from maskmill.pipelines.core.review import relabels_of
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.sample import ExportSample

RUNNER_VERSION = 1


@dataclass(frozen=True)
class ExportUnit:
    """The work on one sample shard: its kept ids, and where they go."""

    samples: str
    root: str
    kept: frozenset[str]
    exporter: Exporter
    space: LabelSpace
    index: int
    relabels: Mapping[str, Relabel] = field(default_factory=dict)  # of kept samples: what people said of their labels

    @property
    def scores(self) -> str:
        """Where the scores of these samples lie."""
        return f"{posixpath.dirname(posixpath.dirname(self.samples))}/scores/{posixpath.basename(self.samples)}"

    @property
    def decisions(self) -> str:
        """Where the decisions on all samples lie."""
        return f"{posixpath.dirname(posixpath.dirname(self.samples))}/decisions.parquet"

    @property
    def stem(self) -> str:
        return posixpath.basename(self.samples).removesuffix(".parquet")


def export_root(run_dir: str, config: Exporter) -> str:
    """Folder that a format goes to."""
    return f"{run_dir}/export/{config.format}"


def export_units(run_dir: str, config: Exporter, space: LabelSpace) -> list[ExportUnit]:
    """One unit a sample shard.

    Raises:
        FileNotFoundError: nothing is decided yet.
    """
    decided = decisions_by_shard(run_dir)
    if decided is None:
        raise FileNotFoundError(f"{run_dir}/decisions.parquet: not there yet; run select first")
    relabels = relabels_of(run_dir)
    units = []
    for index, path in enumerate(list_shards(f"{run_dir}/samples")):
        verdicts = decided.get(posixpath.basename(path), {})
        every = config.takes_rejected
        kept = frozenset(sample_id for sample_id, (_, reason) in verdicts.items() if every or reason == KEPT)
        mended = {sample_id: relabels[sample_id] for sample_id in sorted(kept & relabels.keys())}
        units.append(ExportUnit(path, export_root(run_dir, config), kept, config, space, index, mended))
    return units


def shaping_hash(config: Exporter) -> str:
    """Hash of everything in a config that shapes a shard's files."""
    shaping = config.model_dump(mode="json", exclude=set(config.card_only))
    return content_id(str(RUNNER_VERSION), str(config.version), config_hash(shaping))


def wanted(unit: ExportUnit) -> str:
    footer = read_footer(unit.samples)
    if footer is None:
        raise FileNotFoundError(f"{unit.samples}: no finished shard there; run ingest first")
    mended = [f"{sample_id}: {relabel}" for sample_id, relabel in unit.relabels.items()]
    if unit.exporter.wants_scores:
        told = (read_footer(path) for path in (unit.scores, unit.decisions))
        mended += [f"told: {found.content if found else ''}" for found in told]
    return content_id(footer.content, *sorted(unit.kept), shaping_hash(unit.exporter), unit.space.fingerprint, *mended)


def samples_of(unit: ExportUnit) -> list[ExportSample]:
    if not unit.kept:
        return []
    rows = [row for row in read_shard(unit.samples, SAMPLE).to_pylist() if row["sample_id"] in unit.kept]
    rows = [unit.relabels[i].row(row) if (i := row["sample_id"]) in unit.relabels else row for row in rows]
    split = unit.exporter.split_of
    scores = _rows(unit.scores, SCORE, unit) if unit.exporter.wants_scores else {}
    decisions = _rows(unit.decisions, DECISION, unit) if unit.exporter.wants_scores else {}
    return [
        ExportSample(i := row["sample_id"], split(row["group"] or i), row, scores.get(i), decisions.get(i))
        for row in rows
    ]


def _rows(path: str, contract: Contract, unit: ExportUnit) -> dict[str, dict[str, Any]]:
    """Rows on the samples of a unit by id, without embeddings; empty where there is no such table."""
    if read_footer(path) is None:
        return {}
    table = read_shard(path, contract, [name for name in contract.schema.names if name != "embedding"])
    name = posixpath.basename(unit.samples)
    rows = (row for row in table.to_pylist() if row["sample_id"] in unit.kept)
    return {row["sample_id"]: row for row in rows if row.get("shard", name) == name}
