"""`maskmill run`: everything; and what every command that runs steps shares."""

from dataclasses import asdict
from typing import Any

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say, warn
from maskmill.pipelines.cli.exits import Exit
from maskmill.pipelines.cli.options import (
    ConfigArgument,
    JsonOption,
    RecheckOption,
    ReplaceOption,
    RetryOption,
    SetOption,
)
from maskmill.pipelines.cli.progress import progress
from maskmill.pipelines.cli.reasons import say_reasons
from maskmill.pipelines.core.settings import check_names, parse_pairs
from maskmill.pipelines.core.step import NOTHING, Again, asked
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import RunReport, alarms
from maskmill.pipelines.run.run import run as run_all
from maskmill.pipelines.run.timings import StepTime, read_times


def load_config(config: str, overrides: list[str] | None) -> RunConfig:
    """The config with the overrides of the command line; every $NAME in it is set.

    Raises:
        ConfigError: see `load_settings` and `check_names`.
    """
    loaded = load_run_config(config, parse_pairs(overrides))
    check_names(loaded)
    return loaded


def run(
    config: ConfigArgument,
    overrides: SetOption = None,
    recheck: RecheckOption = False,
    retry: RetryOption = None,
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything: source → scores → duplicates → selection → export → report."""
    execute(load_config(config, overrides), again=asked(recheck, retry, replace))


def execute(config: RunConfig, until: str | None = None, again: Again = NOTHING) -> RunReport:
    """Run with progress, then say where every sample went and where to look."""
    with progress() as report:
        done = run_all(
            config, until=until, progress=lambda step, n, total, one: report(step, n, total, one.status), again=again
        )
    say(done.ledger.rich_table())
    say_reasons(done.ledger)
    times = read_times(config.run_dir)
    for step in done.steps:
        if step.written and step.name in ("ingest", "generate", "score"):
            rate = sum(step.counts.values()) / step.seconds
            spent = f"{step.seconds:.1f} s, {step.written} shards"
            say(f"{step.name}: {rate:.1f} samples/s ({spent}){_beside_bare(times.get(step.name))}")
    if done.idle:
        same = "source, config, models and code are those that it was made from"
        say(f"Nothing to do: every shard was there already, with the fingerprint that it would get now ({same}).")
    if until is None:
        say(f"report: [bold]{escape(config.run_dir)}/report/index.html[/]")
    found = alarms(config, done.ledger)
    for alarm in found:
        warn(str(alarm))
    result({**as_data(config, done), "alarms": [asdict(alarm) for alarm in found]})
    if any(alarm.kind == "nothing_kept" for alarm in found):
        raise typer.Exit(Exit.EMPTY)
    return done


def _beside_bare(time: StepTime | None) -> str:
    """How the rate of a step compares with that of its model alone."""
    if time is None or time.share is None:
        return ""
    return f"; the bare model does {time.bare:.1f} images/s on {time.device}: {time.share:.0%} of it"


def as_data(config: RunConfig, done: RunReport) -> dict[str, Any]:
    """What `--json` prints of a run."""
    steps = [
        {"step": s.name, "written": s.written, "skipped": s.skipped, "counts": s.counts, "seconds": round(s.seconds, 3)}
        for s in done.steps
    ]
    return {
        "name": config.name,
        "run_dir": config.run_dir,
        "steps": steps,
        "samples": done.ledger.rows_in,
        "kept": done.ledger.kept,
        "counts": done.ledger.counts,
        "idle": done.idle,
        "report": f"{config.run_dir}/report/index.html",
    }
