"""`maskmill diff`: what two runs differ in."""

from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.exits import Exit
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.run.diff import diff_runs


def diff(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="run folder: before")],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="run folder: after")],
    as_json: JsonOption = False,
) -> None:
    """Say which keys of two configs differ and which samples were decided otherwise; exit status 1 where any do."""
    found = diff_runs(first.rstrip("/"), second.rstrip("/"))
    for line in found.lines():
        say(escape(line))
    result(found.data())
    raise typer.Exit(Exit.DONE if found.same else Exit.DIFFERENT)
