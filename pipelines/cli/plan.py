"""`maskmill plan`: what a run would do, and why."""

from dataclasses import asdict

from rich.table import Table

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import ConfigArgument, JsonOption, SetOption
from maskmill.pipelines.cli.run import load_config
from maskmill.pipelines.run.run import plan as plan_run


def plan(config: ConfigArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what `run` would do, what it would skip, and why. Writes nothing, downloads nothing, loads no model."""
    lines = plan_run(load_config(config, overrides))
    table = Table("step", "shards", "to do", "to skip", "why", title=f"plan for {config}")
    for line in lines:
        table.add_row(line.step, str(line.units), str(line.to_run), str(line.units - line.to_run), line.words)
    say(table)
    result({"config": config, "steps": [asdict(line) for line in lines]})
