"""Exports a run, one sample shard at a time: resumable, idempotent, no stale files after a changed selection."""

import json
import logging
import posixpath
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from maskmill.data_contracts import (
    LabelSpace,
    ShardEntry,
    config_hash,
    content_id,
    list_shards,
    package_versions,
    read_bytes,
    read_footer,
)
from maskmill.data_contracts.secrets import portable, portable_path, published
from maskmill.pipelines.core.ledger import build_ledger
from maskmill.pipelines.core.verdicts import SHARD
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
from maskmill.pipelines.export.sample import Record
from maskmill.pipelines.export.units import ExportUnit, export_root, export_units, samples_of, shaping_hash, wanted

CARD_VERSION = 2  # of card, manifest and index files: shards stay when it rises
NAME = "maskmill dataset"
RunJson = dict[str, Any] | None  # the resolved config of the run, as plain JSON values
NO_RESULT = frozenset(
    {"run_dir", "workers", "crf_workers", "ray", "limits", "quarantine", "export", "report"}
)  # keys of a run config that shape no kept sample

logger = logging.getLogger("maskmill.export")


@dataclass(frozen=True)
class ExportReport:
    """How a unit ended: `status` is `written` or `skipped`; `rows` went out."""

    name: str
    status: str
    rows: int


def why_export(unit: ExportUnit) -> str | None:
    """Why this shard must be exported, in words; None when it is done."""
    marker = read_marker(unit.root, unit.stem)
    if marker is None:
        return "not done yet"
    if not marker.fingerprint:
        return "it was cut off"
    if marker.fingerprint == wanted(unit):
        return marker_fault(unit.root, unit.stem, marker)
    if marker.config != shaping_hash(unit.exporter):
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
        samples = samples_of(unit)
        result = unit.exporter.shard(samples, unit.space, unit.stem)
        records = json.dumps(result.records, sort_keys=True, separators=(",", ":")).encode()
        files = {**result.files, f"{MARKERS}/{unit.stem}.records": records}
        summary = Summary.of(samples)
        done = Marker(fingerprint=wanted(unit), files=[], config=shaping_hash(unit.exporter), summary=summary)
        with _lock(marker_path(unit.root, INDEX)):
            invalidate(unit.root, INDEX)
        replace(unit.root, unit.stem, files, done)
        return ExportReport(unit.stem, "written", len(samples))


def _index_fingerprint(
    run_dir: str, config: Exporter, units: Sequence[ExportUnit], run_config: RunJson, name: str
) -> str:
    """What the index depends on: every shard's export, the ledger's shards, all options, the run's config, versions."""
    exported = [wanted(unit) for unit in units]
    shards = [*_ledger_shards(run_dir), f"{run_dir}/{SHARD}"]
    ledger = [footer.content for path in shards if (footer := read_footer(path))]
    about: dict[str, object] = {"name": name, "versions": package_versions(), "export": published(config)}
    about["card"] = CARD_VERSION
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
    own: dict[str, object] = {"run": _shaping(run_config), "export": portable(published(config))}
    entries = []
    for path in list_shards(f"{run_dir}/samples"):
        if (footer := read_footer(path)) is not None:
            entries.append(ShardEntry.of(f"samples/{posixpath.basename(path)}", footer))
    whence = "rejects among them, of" if config.takes_rejected else "kept from"
    words = (
        f"{summary.rows:,} image-mask pairs for semantic segmentation, {whence} {ledger.rows_in:,} by maskmill: "
        f"checked, scored, deduplicated and selected. {config.values}"
    )
    return Facts(
        title=config.title or name,
        description=config.description or words,
        summary=summary,
        ledger=ledger,
        shards=tuple(entries),
        lineage=(*_lineage(run_dir), *_judges(run_config)),
        versions=package_versions(),
        config=own,
        config_hash=config_hash(own),
    )


def _shaping(run_config: RunJson) -> dict[str, object]:
    shaping: dict[str, object] = portable({k: v for k, v in (run_config or {}).items() if k not in NO_RESULT})
    return shaping


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


def _judges(run_config: RunJson) -> list[str]:
    """A model of other people that judged masks, with its licence where its folder is at hand."""
    score = (run_config or {}).get("score")
    if not isinstance(score, dict) or score.get("judge") != "promptable":
        return []
    from maskmill.vision.model_cards import NOT_STATED, licence_of

    model = str((score.get("by_boxes") or {}).get("model"))
    licence = licence_of(Path(model)) if Path(model).is_dir() else NOT_STATED
    return [f"masks judged by {portable_path(model)} (licence {licence})"]


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
