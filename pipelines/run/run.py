"""One run, end to end, as plain functions: ingest → score → deduplicate → select → export → report. No server needed.

A run is a list of steps; a step is a list of units; a unit is done or it is not. Flows call the same steps
with a server around them, so whatever started a run can be finished by anything else.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import yaml

from maskmill.data_contracts import (
    FOR_HASH,
    DamagedError,
    config_hash,
    list_shards,
    sweep_temporaries,
    sweep_tree,
    where_writable,
    write_if_changed,
)
from maskmill.pipelines.core.index import note_footers, recall_footers
from maskmill.pipelines.core.ledger import Ledger, build_ledger, keep_ledger
from maskmill.pipelines.core.lock import lock
from maskmill.pipelines.core.settings import save_settings
from maskmill.pipelines.core.step import NOTHING, Again, Outcome, ShardStep, Step
from maskmill.pipelines.core.touched import close
from maskmill.pipelines.ingest.quarantine import sweep_quarantine
from maskmill.pipelines.ingest.unchanged import note_listing
from maskmill.pipelines.report.alarms import Alarm, alarms_of
from maskmill.pipelines.report.data import load_tables
from maskmill.pipelines.run.bare import timed
from maskmill.pipelines.run.checks import check_start, foresee
from maskmill.pipelines.run.config import FROM_SOURCE, RunConfig
from maskmill.pipelines.run.fit import note_fit
from maskmill.pipelines.run.limits import ORIGINS, LimitError, check_limits
from maskmill.pipelines.run.manifest import manifest_of
from maskmill.pipelines.run.plan import PlanLine as PlanLine
from maskmill.pipelines.run.plan import plan as plan
from maskmill.pipelines.run.rounds import Rounds
from maskmill.pipelines.run.steps import STEPS, check_step, open_step, steps_of
from maskmill.pipelines.run.timings import note_times

logger = logging.getLogger("maskmill")


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


def passes(config: RunConfig) -> Iterator[tuple[str, ...]]:
    """Steps to do, pass by pass: once for pairs that exist or are drawn from masks; round after round, then the rest,
    for pairs that are made from text.

    Do the steps of a pass before you ask for the next one: it is planned from what came out.
    """
    if config.generate is None or config.generate.from_masks is not None:
        yield steps_of(config)
        return
    steps = steps_of(config)
    rounds = rounds_of(config)
    while rounds.open():
        yield tuple(name for name in steps if STEPS[name].every_round)
        rounds.close()
    yield tuple(name for name in steps if not STEPS[name].every_round)


def rounds_of(config: RunConfig) -> Rounds:
    """The generation rounds of a run.

    Raises:
        ValueError: the run generates nothing.
    """
    if config.generate is None:
        raise ValueError(f"{config.name}: this run ingests its pairs; it has no generation rounds")
    judged = config.model_dump(mode="json", include={"score", "dedup", "select", "label_space"}, context=FOR_HASH)
    args = (config.generate, config.run_dir, config.space, config.seed, config.shard_size)
    return Rounds(*args, stamp=config_hash(judged))


def run(
    config: RunConfig, *, until: str | None = None, progress: Progress | None = None, again: Again = NOTHING
) -> RunReport:
    """Run all steps (or those up to and including `until`), each over all its units, skipping what is done and not to
    be done `again`. A damaged shard that a step comes upon is made again.

    Raises:
        ConfigError: the run has no step `until`.
        RunLockedError: another process is working in this run folder.
        DamagedError: a damaged file that this run did not make.
        ConfigError: no label space, masks that do not fit it, or a folder of another source.
    """
    if until is not None:
        check_step(config, until)
    with lock(config.run_dir):
        recall_footers(config.run_dir)
        check_start(config, again.replace)
        open_run(config)
        try:
            return _work(config, until, progress, again)
        except DamagedError as error:
            logger.warning("%s; every shard is looked at, and what is damaged is made again", error)
            return _work(config, until, progress, replace(again, verify=True))


def _work(config: RunConfig, until: str | None, progress: Progress | None, again: Again) -> RunReport:
    reports: list[StepReport] = []
    for name in (name for steps in passes(config) for name in steps):
        done = run_step(config, name, progress, again)
        reports.append(done)
        # At once, not at the end: the report shows the times of the steps before it.
        note_times(config.run_dir, [timed(config, name, done.seconds, done.written, sum(done.counts.values()))])
        if name in ORIGINS:
            _within_limits(config)
        if name == until:
            break
    ledger = finish(config)
    return RunReport(tuple(reports), ledger)


def _within_limits(config: RunConfig) -> None:
    """Where a limit is exceeded, say where every sample went before the run ends."""
    try:
        check_limits(config.limits, config.run_dir)
    except LimitError:
        build_ledger(config.run_dir).write(f"{config.run_dir}/ledger.json")
        raise


def run_step(config: RunConfig, name: str, progress: Progress | None = None, again: Again = NOTHING) -> StepReport:
    """Run one step over all its units, `config.workers` at a time."""
    started = time.perf_counter()
    step = open_step(config, name, again)
    prepare(config, step)
    total = step.count()
    done: list[Outcome] = []
    if progress is not None:
        progress(name, 0, total, Outcome("started"))

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
    """Clear away what killed writers left, and shards that no unit of this step writes any more (the source shrank);
    look at the first masks where something is to be ingested.

    Raises:
        ConfigError: none of these masks would pass; says the line that mends it.
    """
    foresee(config, step)
    sweep_temporaries(config.run_dir)
    if isinstance(step, ShardStep):
        for folder in step.folders():
            sweep_temporaries(folder)
        step.drop_orphans()


def finish(config: RunConfig) -> Ledger:
    """Check that every sample is accounted for, and write ledger and manifest where they say something new.

    Raises:
        LedgerError: in ≠ kept + rejected somewhere; names the shard.
    """
    with where_writable():
        note_fit(config)
        sweep_quarantine(config.run_dir)
    ledger = build_ledger(config.run_dir)
    with where_writable():
        ledger.write(f"{config.run_dir}/ledger.json")
        manifest_of(config, ledger).write(f"{config.run_dir}/manifest.json")
    folders = ("samples", "rejects", "study", "scores", "downstream/test/samples", "downstream/test/rejects")
    shards = [path for folder in folders for path in list_shards(f"{config.run_dir}/{folder}")]
    tables = [f"{config.run_dir}/{name}.parquet" for name in ("learnt", "neighbours", "decisions", "verdicts")]
    close([*shards, *tables], f"{config.run_dir}/manifest.json")
    keep_ledger(config.run_dir)
    note_footers(config.run_dir)
    note_listing(config.run_dir)
    return ledger


def alarms(config: RunConfig, ledger: Ledger) -> list[Alarm]:
    """What went wrong as a whole in a run folder as it stands, the worst first."""
    return alarms_of(config.run_dir, load_tables(config.run_dir), ledger, config.space)


def open_run(config: RunConfig) -> str:
    """Clear away what killed writers left, and write the resolved config beside the data, for readers and for tasks in
    other processes; returns its path. Only for who holds the lock.
    """
    sweep_tree(config.run_dir)
    return save_config(config)


def save_config(config: RunConfig) -> str:
    """Write RUN/config.json unless it says so already, and beside it the label space that the source brought along;
    returns the path of the former.
    """
    with where_writable():
        save_settings(config, config.run_dir)
        if config.label_space == FROM_SOURCE:
            text = yaml.safe_dump(config.space.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
            write_if_changed(f"{config.run_dir}/label_space.yaml", text.encode())
    return f"{config.run_dir}/config.json"
