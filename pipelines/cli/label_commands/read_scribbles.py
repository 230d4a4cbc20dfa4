"""`maskmill label read-scribbles`: drawn (or simulated) strokes to WeakLabel shards."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.label_commands.common import print_summary
from maskmill.pipelines.core.settings import load_settings

NAME = "read-scribbles"
console = Console()


def command(
    config: Annotated[str, typer.Argument(help="YAML file: samples, label_space, kind (png, xml, simulated), root, …")],
    out: Annotated[str, typer.Option(help="folder for weak/ and rejects/")],
    overrides: Annotated[list[str] | None, typer.Option("--set", "-s", help="override one key (repeatable)")] = None,
) -> None:
    """Scribbles for Sample shards to WeakLabel shards in OUT/weak. Next: `maskmill train` with those as `weak`."""
    from maskmill.pipelines.weak.scribbles import ScribbleConfig, read_scribbles, scribbles_units

    with readable_errors(console):
        wanted = load_settings(config, ScribbleConfig, overrides)
        with Progress(console=console) as bar:
            task = bar.add_task("scribbles", total=len(scribbles_units(wanted, out)))
            counts = read_scribbles(wanted, out, progress=lambda report: bar.update(task, advance=1))
        print_summary(console, counts)
