"""Exports a run, one sample shard at a time: resumable, idempotent, no stale files after a changed selection."""

import json
import logging
import posixpath
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from maskmill.data_contracts import (
    SAMPLE,
    LabelSpace,
    ShardEntry,
    config_hash,
    content_id,
    list_shards,
    package_versions,
    read_bytes,
    read_footer,
    read_shard,
)
from maskmill.data_contracts.secrets import published
from maskmill.pipelines.core.ledger import KEPT, build_ledger, decisions_by_shard
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.card import dataset_card, manifest
from maskmill.pipelines.export.facts import Facts, Summary
from maskmill.pipelines.export.markers import (
    DAMAGED,
    INDEX,
    MARKERS,
    Marker,
    drop_stale,
    invalidate,
    marker_fault,
    marker_path,
    read_marker,
    replace,
    sums_of,
    sweep_export,
    write_marker,
)
from maskmill.pipelines.export.sample import ExportSample, Record

RUNNER_VERSION = 1
NAME = "maskmill dataset"
RunJson = dict[str, Any] | None  # the resolved config of the run, as plain JSON values
NO_RESULT = frozenset(
    {"run_dir", "workers", "limits", "export", "report"}
)  # keys of a run config that shape no kept sample

logger = logging.getLogger("maskmill.export")


@dataclass(frozen=True)
class ExportUnit:
    """The work on one sample shard: its kept ids, and where they go."""

    samples: str
    root: str
    kept: frozenset[str]
    exporter: Exporter
    space: LabelSpace
    index: int

    @property
    def stem(self) -> str:
        return posixpath.basename(self.samples).removesuffix(".parquet")


@dataclass(frozen=True)
class ExportReport:
    """How a unit ended: `status` is `written` or `skipped`; `rows` went out."""

    name: str
    status: str
    rows: int


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
    units = []
    for index, path in enumerate(list_shards(f"{run_dir}/samples")):
        verdicts = decided.get(posixpath.basename(path), {})
        kept = frozenset(sample_id for sample_id, (_, reason) in verdicts.items() if reason == KEPT)
        units.append(ExportUnit(path, export_root(run_dir, config), kept, config, space, index))
    return units


def _config_hash(config: Exporter) -> str:
    """Hash of everything in a config that shapes a shard's files."""
    shaping = config.model_dump(mode="json", exclude=set(config.card_only))
    return content_id(str(RUNNER_VERSION), str(config.version), config_hash(shaping))


def _wanted(unit: ExportUnit) -> str:
    footer = read_footer(unit.samples)
    if footer is None:
        raise FileNotFoundError(f"{unit.samples}: no finished shard there; run ingest first")
    return content_id(footer.content, *sorted(unit.kept), _config_hash(unit.exporter), unit.space.fingerprint)


def why_export(unit: ExportUnit) -> str | None:
    """Why this shard must be exported, in words; None when it is done."""
    marker = read_marker(unit.root, unit.stem)
    if marker is None:
        return "not done yet"
    if not marker.fingerprint:
        return "it was cut off"
    if marker.fingerprint == _wanted(unit):
        return marker_fault(unit.root, unit.stem, marker)
    if marker.config != _config_hash(unit.exporter):
        return "its config or the code changed"
    return "its samples or the selection changed"


@cache
def _lock(path: str) -> threading.Lock:
    return threading.Lock()


def export_shard(unit: ExportUnit) -> ExportReport:
    """Export one shard unless it is done.

    Raises:
        ContractError: a kept sample that the format cannot hold, e.g. one without a mask.
    """
    with _lock(marker_path(unit.root, unit.stem)):
        if (why := why_export(unit)) is None:
            return ExportReport(unit.stem, "skipped", len(unit.kept))
        if why.startswith(DAMAGED):
            logger.warning("%s/%s: %s; exported again", unit.root, unit.stem, why)
        samples = _samples(unit)
        result = unit.exporter.shard(samples, unit.space, unit.stem)
        records = json.dumps(result.records, sort_keys=True, separators=(",", ":")).encode()
        files = {**result.files, f"{MARKERS}/{unit.stem}.records": records}
        summary = Summary.of(samples)
        done = Marker(fingerprint=_wanted(unit), files=[], config=_config_hash(unit.exporter), summary=summary)
        with _lock(marker_path(unit.root, INDEX)):
            invalidate(unit.root, INDEX)
        replace(unit.root, unit.stem, files, done)
        return ExportReport(unit.stem, "written", len(samples))


def _samples(unit: ExportUnit) -> list[ExportSample]:
    if not unit.kept:
        return []
    rows = [row for row in read_shard(unit.samples, SAMPLE).to_pylist() if row["sample_id"] in unit.kept]
    split = unit.exporter.split_of
    return [ExportSample(row["sample_id"], split(row["group"] or row["sample_id"]), row) for row in rows]


def _index_fingerprint(
    run_dir: str, config: Exporter, units: Sequence[ExportUnit], run_config: RunJson, name: str
) -> str:
    """What the index depends on: every shard's export, the ledger's shards, all options, the run's config, versions."""
    exported = [_wanted(unit) for unit in units]
    ledger = [footer.content for path in _ledger_shards(run_dir) if (footer := read_footer(path))]
    about: dict[str, object] = {"name": name, "versions": package_versions(), "export": published(config)}
    return content_id(*exported, "|", *ledger, "|", config_hash(about), config_hash(_shaping(run_config)))


def why_finish(
    run_dir: str, config: Exporter, space: LabelSpace, run_config: RunJson = None, name: str = NAME
) -> str | None:
    """Why index files, card and manifest must be written, in words; None when they are there."""
    marker = read_marker(export_root(run_dir, config), INDEX)
    if marker is None or not marker.fingerprint:
        return "not done yet"
    units = export_units(run_dir, config, space)
    if marker.fingerprint != _index_fingerprint(run_dir, config, units, run_config, name):
        return "what it lists changed"
    return marker_fault(export_root(run_dir, config), INDEX, marker)


def finish_export(
    run_dir: str, config: Exporter, space: LabelSpace, run_config: RunJson = None, name: str = NAME
) -> ExportReport:
    """Write index files, dataset card, label space and manifest unless they are there; first do shards that are left.

    Also removes files of shards that the run no longer has, and temporaries of killed writers. `run_config` (JSON) goes
    into card and manifest.
    """
    units = export_units(run_dir, config, space)
    for unit in units:
        export_shard(unit)
    root = export_root(run_dir, config)
    with _lock(marker_path(root, INDEX)):
        rows = sum(len(unit.kept) for unit in units)
        fingerprint = _index_fingerprint(run_dir, config, units, run_config, name)
        marker = read_marker(root, INDEX)
        if marker is not None and marker.fingerprint == fingerprint and not marker_fault(root, INDEX, marker):
            return ExportReport(INDEX, "skipped", rows)
        sweep_export(root)  # nobody writes here now: every shard is done
        files = _index_files(run_dir, config, space, units, run_config, name)
        replace(root, INDEX, files, Marker(fingerprint="", files=[]))
        drop_stale(root, {INDEX, *(unit.stem for unit in units)})
        write_marker(root, INDEX, Marker(fingerprint=fingerprint, files=sorted(files), sums=sums_of(files)))
        return ExportReport(INDEX, "written", rows)


def _index_files(
    run_dir: str,
    config: Exporter,
    space: LabelSpace,
    units: Sequence[ExportUnit],
    run_config: RunJson,
    name: str,
) -> dict[str, bytes]:
    root = export_root(run_dir, config)
    records: list[Record] = []
    summaries = []
    for unit in units:
        records += json.loads(read_bytes(f"{root}/{MARKERS}/{unit.stem}.records"))
        if (marker := read_marker(root, unit.stem)) is not None:
            summaries.append(marker.summary)
    records.sort(key=lambda record: str(record["sample_id"]))
    facts = gather_facts(run_dir, config, Summary.total(summaries), run_config, name)
    files: dict[str, bytes] = dict(config.finish(records, space, facts))
    files["README.md"] = dataset_card(facts, config, space, records, config.loading).encode()
    files["label_space.yaml"] = yaml.safe_dump(space.model_dump(mode="json"), sort_keys=False).encode()
    files["manifest.json"] = manifest(facts, space).text()
    return files


def gather_facts(run_dir: str, config: Exporter, summary: Summary, run_config: RunJson, name: str) -> Facts:
    """Everything that card and manifest say, from the run folder."""
    ledger = build_ledger(run_dir)
    own: dict[str, object] = {"run": _shaping(run_config), "export": published(config)}
    entries = []
    for path in list_shards(f"{run_dir}/samples"):
        if (footer := read_footer(path)) is not None:
            entries.append(ShardEntry.of(f"samples/{posixpath.basename(path)}", footer))
    words = (
        f"{summary.rows:,} image-mask pairs for semantic segmentation, kept from {ledger.rows_in:,} by maskmill: "
        "checked, scored, deduplicated and selected. Masks hold class ids; 255 means ignore."
    )
    return Facts(
        title=config.title or name,
        description=config.description or words,
        summary=summary,
        ledger=ledger,
        shards=tuple(entries),
        lineage=tuple(_lineage(run_dir)),
        versions=package_versions(),
        config=own,
        config_hash=config_hash(own),
    )


def _shaping(run_config: RunJson) -> dict[str, object]:
    return {key: value for key, value in (run_config or {}).items() if key not in NO_RESULT}


def _ledger_shards(run_dir: str) -> list[str]:
    folders = [path for name in ("samples", "rejects", "scores") for path in list_shards(f"{run_dir}/{name}")]
    return [*folders, f"{run_dir}/neighbours.parquet", f"{run_dir}/decisions.parquet"]


def _lineage(run_dir: str) -> list[str]:
    """Stages with their config hashes, in the order in which data passed them."""
    seen: dict[str, int] = {}
    for path in _ledger_shards(run_dir):
        if (footer := read_footer(path)) is not None and "/rejects/" not in path:
            step = f"{footer.stage} (config {footer.config_hash or 'none'})"
            seen[step] = seen.get(step, 0) + 1
    return [f"{step}: {number} shard{'s' if number > 1 else ''}" for step, number in seen.items()]


def run_export(
    run_dir: str,
    config: Exporter,
    space: LabelSpace,
    *,
    run_config: RunJson = None,
    name: str = NAME,
    workers: int = 1,
    progress: Callable[[ExportReport], None] | None = None,
) -> list[ExportReport]:
    """Export a run in one format: all shards on `workers` threads, then the index."""
    sweep_export(export_root(run_dir, config))

    def one(unit: ExportUnit) -> ExportReport:
        report = export_shard(unit)
        if progress is not None:
            progress(report)
        return report

    with ThreadPoolExecutor(max(1, workers)) as pool:
        reports = list(pool.map(one, export_units(run_dir, config, space)))
    reports.append(finish_export(run_dir, config, space, run_config, name))
    return reports
