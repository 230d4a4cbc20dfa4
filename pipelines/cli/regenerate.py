"""`maskmill regenerate`: one sample again."""

from pathlib import Path
from typing import Annotated

import typer

from maskmill.pipelines.cli.console import say
from maskmill.pipelines.cli.exits import Exit
from maskmill.pipelines.cli.options import ConfigArgument, SetOption
from maskmill.pipelines.cli.run import load_config
from maskmill.pipelines.run.regenerate import regenerate_sample


def regenerate(
    config: ConfigArgument,
    sample_id: Annotated[str, typer.Argument(help="id of the sample (or the first digits of it)")],
    out: Annotated[Path, typer.Option(help="folder for image and mask")] = Path("regenerated"),
    overrides: SetOption = None,
) -> None:
    """Make one sample again from what its row says, and say whether the bytes are the same (else: exit status 1)."""
    made = regenerate_sample(load_config(config, overrides), sample_id, out)
    say(made.message)
    raise typer.Exit(Exit.DONE if made.same else Exit.DIFFERENT)
