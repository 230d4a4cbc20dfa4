"""`maskmill label scribble`: masks for a folder of photos from scribbles on some of them."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.label_commands.common import asked_space, print_summary
from maskmill.pipelines.core.settings import parse_pairs
from maskmill.pipelines.core.stage import UnitReport

NAME = "scribble"
console = Console()


def command(
    images: Annotated[str, typer.Option(help="folder of photos, with any folders in it")],
    scribbles: Annotated[str, typer.Option(help="folder of STEM.png: class ids on strokes; at the photo's size")],
    out: Annotated[str, typer.Option(help="where masks, overlays and the page go")],
    classes: Annotated[str | None, typer.Option(help="names with commas, ids 1, 2, … in this order")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="instead of --classes: a built-in label space or a YAML file")
    ] = None,
    coding: Annotated[
        str, typer.Option(help="plain: 255 = not drawn; acdc: 4; sduts: 0, with 1 object and 2 background")
    ] = "plain",
    trainer: Annotated[str, typer.Option(help="dfr for classes, scwssod for one foreground")] = "dfr",
    training: Annotated[
        list[str] | None, typer.Option("--train", "-t", help="one setting of the trainer, e.g. --train steps=400")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="one option of the labeler, e.g. --set confidence=0.8")
    ] = None,
) -> None:
    """Train on the scribbled photos, then label all of them. Writes PNG masks, overlays and index.html.

    What was drawn stays as it is. Photos without scribbles are labelled too.
    """
    from maskmill.pipelines.weak.label_scribbles import label_scribbles

    with readable_errors(console):
        space = asked_space(classes, label_space)
        given: dict[str, Any] = {"training": parse_pairs(training), "settings": parse_pairs(overrides)}
        with Progress(console=console) as bar:
            tasks = {name: bar.add_task(name, total=None) for name in ("read", "scribbles", "label")}

            def tell(name: str, report: UnitReport) -> None:
                bar.update(tasks[name], advance=1)

            counts = label_scribbles(
                images, scribbles, out, space, coding=coding, trainer=trainer, progress=tell, **given
            )
        print_summary(console, counts)
        console.print(f"masks: [bold]{out}/masks[/], page: [bold]{out}/index.html[/]", soft_wrap=True)
