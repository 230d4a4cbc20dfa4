"""`maskmill verify`: is every byte of a run or an export as it was written?"""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say, warn
from maskmill.pipelines.cli.exits import Exit
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.run.verify import FIX
from maskmill.pipelines.run.verify import verify as verify_folder


def verify(
    folder: Annotated[str, typer.Argument(help="a run folder, an export, a folder of shards, or an artifact")],
    as_json: JsonOption = False,
) -> None:
    """Hold every file against the hashes that were written with it; ends with 1 where a single bit differs."""
    found = verify_folder(folder)
    for fault in found.faults:
        warn(str(fault))
    if found.without_hashes:
        names = escape(", ".join(found.without_hashes[:3]))
        say(f"{len(found.without_hashes)} files carry no hashes of all their bytes: {names} … (of shards, the rows do)")
    say(f"{len(found.verified)} files are as they were written, {len(found.faults)} are damaged")
    result(asdict(found))
    if found.faults:
        say(FIX)
        raise typer.Exit(Exit.DIFFERENT)
