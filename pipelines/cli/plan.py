"""`maskmill plan`: what a run would do, and why."""

from dataclasses import asdict

from rich.table import Table

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import ConfigArgument, JsonOption, SetOption
from maskmill.pipelines.cli.reasons import say_foresight
from maskmill.pipelines.cli.run import load_config
from maskmill.pipelines.ingest.foresee import foresee
from maskmill.pipelines.run.run import plan as plan_run


def plan(config: ConfigArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what `run` would do, what it would skip, and why; load the first hundred entries of the source and say which
    would be turned away. Writes nothing, downloads nothing, loads no model.
    """
    loaded = load_config(config, overrides)
    lines = plan_run(loaded)
    table = Table("step", "shards", "to do", "to skip", "why", title=f"plan for {config}")
    for line in lines:
        table.add_row(line.step, str(line.units), str(line.to_run), str(line.units - line.to_run), line.words)
    say(table)
    foresight = None
    if loaded.source is not None and lines[0].to_run:
        foresight = foresee(loaded.source, loaded.space)
        say_foresight(foresight)
    seen = None
    if foresight is not None:
        seen = {**asdict(foresight), "examples": [example.model_dump() for example in foresight.examples]}
    result({"config": config, "steps": [asdict(line) for line in lines], "foreseen": seen})
