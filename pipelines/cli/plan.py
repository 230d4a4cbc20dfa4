"""`maskmill plan`: what a run would do, and why."""

from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import ConfigArgument, JsonOption, SetOption
from maskmill.pipelines.cli.reasons import say_foresight
from maskmill.pipelines.cli.run import load_config
from maskmill.pipelines.ingest.foresee import foresee
from maskmill.pipelines.run.plan import PlanLine, resources
from maskmill.pipelines.run.plan import plan as plan_run
from maskmill.pipelines.run.timings import known_times


def plan(config: ConfigArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what `run` would do, what it would skip, and why; load the first hundred entries of the source and say which
    would be turned away. Writes nothing, downloads nothing, loads no model.
    """
    loaded = load_config(config, overrides)
    lines = plan_run(loaded)
    say(as_table(config, lines))
    if total := sum(line.seconds or 0.0 for line in lines):
        say(f"about {_clock(total)}, by the times of {known_times(loaded.run_dir)[1]}")
    if wanted := resources(loaded):
        say(wanted)
    foresight = None
    if loaded.source is not None and lines[0].to_run:
        foresight = foresee(loaded.source, loaded.space)
        say_foresight(foresight)
    seen = None
    if foresight is not None:
        seen = {**asdict(foresight), "examples": [example.model_dump() for example in foresight.examples]}
    result({"config": config, "steps": [asdict(line) for line in lines], "foreseen": seen, "resources": wanted})


def as_table(config: str, lines: list[PlanLine]) -> Table:
    """A line a step; what is not known yet is a question mark."""
    table = Table("step", "shards", "to do", "to skip", "takes about", "why", title=f"plan for {config}")
    for line in lines:
        known = line.waits_for is None and (line.units > 0 or not line.why)
        counts = (line.units, line.to_run, line.units - line.to_run) if known else ("?", "?", "?")
        takes = "" if line.seconds is None else _clock(line.seconds)
        table.add_row(line.step, *map(str, counts), takes, escape(line.words))
    return table


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
