"""One run, end to end, as plain functions: ingest → score → deduplicate → select → export → report. No server needed.

A run is a list of steps; a step is a list of units; a unit is done or it is not. Flows call the same steps
with a server around them, so whatever started a run can be finished by anything else.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from data_contracts import (
    Manifest,
    ShardEntry,
    config_hash,
    list_shards,
    package_versions,
    read_footer,
    sweep_temporaries,
    write_bytes,
)
from pipelines.config import RunConfig
from pipelines.ledger import Ledger, build_ledger
from pipelines.rounds import Rounds
from pipelines.stage import Stage, Unit, run_unit, why_run

STEPS = ("ingest", "score", "dedup", "select", "export", "report")  # of a run over pairs that exist
ROUND = ("generate", "score", "dedup", "select")  # of every round of a run that makes them
DOWNSTREAM = ("downstream-data", "downstream")  # after selection, where the config asks for it


@dataclass(frozen=True)
class Outcome:
    """How one unit of a step ended: `written` or `skipped`, and the samples that it saw, by reason."""

    status: str
    counts: dict[str, int] = field(default_factory=dict)


class Step(Protocol):
    """One stage of a run over all its units."""

    name: str

    def count(self) -> int:
        """Number of units. Known only when the steps before are done."""

    def why(self, index: int) -> str | None:
        """Why unit `index` must run, in words; None when it is done."""

    def run(self, index: int) -> Outcome:
        """Do unit `index` unless it is done."""


class ShardStep:
    """A step whose units write contract shards."""

    def __init__(self, stage: Stage, units: list[Unit]) -> None:
        self.name = stage.name
        self._stage = stage
        self._units = units

    def count(self) -> int:
        return len(self._units)

    def why(self, index: int) -> str | None:
        return why_run(self._stage, self._units[index])

    def run(self, index: int) -> Outcome:
        report = run_unit(self._stage, self._units[index])
        return Outcome(report.status, report.counts)

    def folders(self) -> set[str]:
        """Folders that this step writes to."""
        return {path.rsplit("/", 1)[0] for unit in self._units for path in unit.outputs}

    def drop_orphans(self, run_dir: str) -> None:
        """Remove shards of an earlier, longer run that no unit writes any more; the run folder itself is left alone."""
        wanted = {path for unit in self._units for path in unit.outputs}
        for folder in self.folders() - {run_dir.rstrip("/")}:
            fs, _ = fsspec.core.url_to_fs(folder)
            for path in list_shards(folder):
                if path.rsplit("/", 1)[-1] not in {w.rsplit("/", 1)[-1] for w in wanted}:
                    fs.rm_file(path)


def open_step(config: RunConfig, name: str) -> Step:
    """Step `name` of a run, ready to tell and do its units. Cheap: models are loaded when the first unit runs.

    Raises:
        KeyError: no such step; lists them.
    """
    # Imported here: each of these brings its own engine along.
    if name == "generate" and config.generate is not None:
        from pipelines.generate import generate_stage, generate_units

        stage = generate_stage(config.generate.generator, config.space, config.seed)
        return ShardStep(stage, generate_units(config.run_dir))
    if name == "ingest" and config.source is not None:
        from pipelines.ingest import ingest_stage, ingest_units

        stage = ingest_stage(config.source, config.space)
        return ShardStep(stage, ingest_units(config.source, config.run_dir, config.shard_size))
    if name == "score":
        from pipelines.score import score_stage, score_units

        return ShardStep(score_stage(config.score, config.space, config.seed), score_units(config.run_dir))
    if name == "dedup":
        from pipelines.dedup import dedup_stage, dedup_units

        return ShardStep(dedup_stage(config.dedup), dedup_units(config.run_dir))
    if name == "select":
        from pipelines.select import select_stage, select_units

        return ShardStep(select_stage(config.select), select_units(config.run_dir))
    if name == "downstream-data" and config.downstream is not None:
        from pipelines.downstream import test_stage, test_units

        units = test_units(config.downstream, config.run_dir)
        return ShardStep(test_stage(config.downstream, config.space), units)
    if name == "downstream" and config.downstream is not None:
        from pipelines.downstream import DownstreamStep

        return DownstreamStep(config, config.downstream)
    if name == "export":
        from pipelines.export import ExportStep

        return ExportStep(config)
    if name == "report":
        from pipelines.report import ReportStep

        return ReportStep(config)
    raise KeyError(f"{name!r} is no step of this run; steps: {', '.join(steps_of(config))}")


@dataclass(frozen=True)
class StepReport:
    """What a step did: units by outcome, samples by reason, wall seconds."""

    name: str
    written: int
    skipped: int
    counts: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class RunReport:
    """What a run did, and where every sample went."""

    steps: tuple[StepReport, ...]
    ledger: Ledger

    @property
    def idle(self) -> bool:
        """True when everything had been done before."""
        return all(step.written == 0 for step in self.steps)


Progress = Callable[[str, int, int, Outcome], None]  # step, units done, units in all, outcome of the last


def steps_of(config: RunConfig) -> tuple[str, ...]:
    """Names of a run's steps, in order."""
    return (*(STEPS[: len(ROUND)] if config.generate is None else ROUND), *_closing(config))


def _closing(config: RunConfig) -> tuple[str, ...]:
    return (*(DOWNSTREAM if config.downstream is not None else ()), *STEPS[len(ROUND) :])


def passes(config: RunConfig) -> Iterator[tuple[str, ...]]:
    """Steps to do, pass by pass: once for pairs that exist; round after round, then the rest, for pairs that are made.

    Do the steps of a pass before you ask for the next one: it is planned from what came out.
    """
    if config.generate is None:
        yield steps_of(config)
        return
    rounds = rounds_of(config)
    while rounds.open():
        yield ROUND
        rounds.close()
    yield _closing(config)


def rounds_of(config: RunConfig) -> Rounds:
    """The generation rounds of a run.

    Raises:
        ValueError: the run generates nothing.
    """
    if config.generate is None:
        raise ValueError(f"{config.name}: this run ingests its pairs; it has no generation rounds")
    judged = config.model_dump(mode="json", include={"score", "dedup", "select", "label_space"})
    args = (config.generate, config.run_dir, config.space, config.seed, config.shard_size)
    return Rounds(*args, stamp=config_hash(judged))


def run(config: RunConfig, *, until: str | None = None, progress: Progress | None = None) -> RunReport:
    """Run all steps (or those up to and including `until`), each over all its units, skipping what is done.

    Raises:
        RunLockedError: another process is working in this run folder.
    """
    with lock(config.run_dir):
        save_config(config)
        reports: list[StepReport] = []
        for name in (name for steps in passes(config) for name in steps):
            reports.append(run_step(config, name, progress))
            if name == until:
                break
        return RunReport(tuple(reports), finish(config))


def run_step(config: RunConfig, name: str, progress: Progress | None = None) -> StepReport:
    """Run one step over all its units, `config.workers` at a time."""
    started = time.perf_counter()
    step = open_step(config, name)
    prepare(config, step)
    total = step.count()
    done: list[Outcome] = []

    def one(index: int) -> None:
        done.append(outcome := step.run(index))
        if progress is not None:
            progress(name, len(done), total, outcome)

    with ThreadPoolExecutor(config.workers) as pool:
        list(pool.map(one, range(total)))
    counts: dict[str, int] = {}
    for outcome in done:
        for reason, number in outcome.counts.items():
            counts[reason] = counts.get(reason, 0) + number
    written = sum(outcome.status == "written" for outcome in done)
    return StepReport(name, written, total - written, counts, time.perf_counter() - started)


def prepare(config: RunConfig, step: Step) -> None:
    """Clear away what killed writers left, and shards that no unit of this step writes any more (the source shrank)."""
    sweep_temporaries(config.run_dir)
    if isinstance(step, ShardStep):
        for folder in step.folders():
            sweep_temporaries(folder)
        step.drop_orphans(config.run_dir)


def finish(config: RunConfig) -> Ledger:
    """Check that every sample is accounted for, and write ledger and manifest.

    Raises:
        LedgerError: in ≠ kept + rejected somewhere; names the shard.
    """
    ledger = build_ledger(config.run_dir)
    ledger.write(f"{config.run_dir}/ledger.json")
    manifest_of(config, ledger).write(f"{config.run_dir}/manifest.json")
    return ledger


@dataclass(frozen=True)
class PlanLine:
    """What a step would do: how many units of how many, and why, by reason."""

    step: str
    units: int
    to_run: int
    why: dict[str, int]


def plan(config: RunConfig) -> list[PlanLine]:
    """What `run` would do now, step by step, without doing it. Steps after one that has work are counted as
    waiting for it.
    """
    lines: list[PlanLine] = []
    waiting_for: str | None = None
    for name in steps_of(config):
        if waiting_for is not None:
            lines.append(PlanLine(name, 0, 0, {f"after {waiting_for}: known once it has run": 1}))
            continue
        step = open_step(config, name)
        reasons: dict[str, int] = {}
        for index in range(step.count()):
            if (why := step.why(index)) is not None:
                reasons[why] = reasons.get(why, 0) + 1
        lines.append(PlanLine(name, step.count(), sum(reasons.values()), reasons))
        if reasons:
            waiting_for = name
    return lines


class RunLockedError(OSError):
    """Two processes may not work in one run folder."""


@contextmanager
def lock(run_dir: str) -> Iterator[None]:
    """Hold a local run folder; the system lets go of it when the process dies, however it dies. Object stores are
    not locked.
    """
    fs, target = fsspec.core.url_to_fs(run_dir)
    if not isinstance(fs, LocalFileSystem):
        yield
        return
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(target, ".lock"), "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{run_dir}: another process is working here; wait for it, or name another run_dir"
            raise RunLockedError(message) from error
        yield


def save_config(config: RunConfig) -> str:
    """Write the resolved config beside the data, for readers and for tasks in other processes; returns its path."""
    path = f"{config.run_dir}/config.json"
    write_bytes(path, (config.model_dump_json(indent=2) + "\n").encode())
    return path


def manifest_of(config: RunConfig, ledger: Ledger) -> Manifest:
    """The manifest of a run folder as it stands."""
    entries = []
    for path in list_shards(f"{config.run_dir}/samples"):
        if (footer := read_footer(path)) is not None:
            entries.append(ShardEntry.of(f"samples/{path.rsplit('/', 1)[-1]}", footer))
    lineage = []
    for name, folder in ((steps_of(config)[0], "samples"), ("score", "scores")):
        if paths := list_shards(f"{config.run_dir}/{folder}"):
            footer = read_footer(paths[0])
            lineage.append(f"{name}@{footer.config_hash if footer else '?'}")
    for name, file in (("dedup", "neighbours"), ("select", "decisions")):
        if (footer := read_footer(f"{config.run_dir}/{file}.parquet")) is not None:
            lineage.append(f"{name}@{footer.config_hash}")
    return Manifest(
        name=config.name,
        rows=ledger.rows_in,
        counts=ledger.counts,
        class_counts=ledger.class_counts(config.space),
        shards=entries,
        label_space=config.space.name,
        config=(settings := config.model_dump(mode="json", exclude={"run_dir", "workers"})),
        config_hash=config_hash(settings),
        versions=package_versions(),
        licences=ledger.licences,
        lineage=lineage,
    )
