"""`maskmill label …`: pseudo-labels for a folder of photos, or for contract shards."""

import importlib
import pkgutil
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from maskmill.pipelines.cli import label_commands
from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.label_commands.common import print_summary
from maskmill.pipelines.core.settings import load_settings
from maskmill.pipelines.stages.label import LabelConfig, label, label_units

app = typer.Typer(
    no_args_is_help=True, help="Turn weak labels into masks: a command a labeler for files, `shards` for all else."
)
console = Console()

for _module in pkgutil.iter_modules(label_commands.__path__):
    _command = importlib.import_module(f"{label_commands.__name__}.{_module.name}")
    if hasattr(_command, "NAME"):
        app.command(_command.NAME)(_command.command)


@app.command("shards")
def shards(
    config: Annotated[
        str, typer.Argument(help="YAML file of a labelling run: labeler, label_space, samples, weak, settings")
    ],
    out: Annotated[str, typer.Option(help="folder for the PseudoLabel shards")],
    overrides: Annotated[list[str] | None, typer.Option("--set", "-s", help="override one key (repeatable)")] = None,
) -> None:
    """Label Sample shards by any labeler; shards that are labelled already are skipped. Next: `maskmill train`."""
    with readable_errors(console):
        wanted = load_settings(config, LabelConfig, overrides)
        with Progress(console=console) as bar:
            task = bar.add_task("label", total=len(label_units(wanted, out)))
            counts = label(wanted, out, progress=lambda report: bar.update(task, advance=1))
        print_summary(console, counts)
