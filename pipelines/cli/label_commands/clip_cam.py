"""`maskmill label clip-cam`: masks for a folder of photos from class names."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.label_commands.common import asked_space, print_summary
from maskmill.pipelines.core.settings import parse_pairs
from maskmill.pipelines.core.stage import UnitReport

NAME = "clip-cam"
console = Console()


def command(
    images: Annotated[str, typer.Option(help="folder of photos, with any folders in it")],
    out: Annotated[str, typer.Option(help="where masks, overlays and the page go")],
    classes: Annotated[str | None, typer.Option(help="names with commas, e.g. 'horse,person'")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="instead of --classes: a built-in label space or a YAML file")
    ] = None,
    model: Annotated[str | None, typer.Option(help="open_clip model, local folder, or `starter`")] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip tag or weight file")] = None,
    preset: Annotated[str | None, typer.Option(help="`starter`, or `faithful` = CLIP-ES on ViT-B/16")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="one option of clip_cam, e.g. --set refine=crf (repeatable)")
    ] = None,
) -> None:
    """Masks for a folder of photos from class names alone; no training. Writes PNG masks, overlays and index.html.

    Which of the classes a photo shows is asked of CLIP; photos that show none are listed with that reason.
    """
    from maskmill.pipelines.weak.label_photos import label_photos

    with readable_errors(console):
        space = asked_space(classes, label_space)
        given: dict[str, Any] = {"preset": preset, "model": model, "pretrained": pretrained}
        settings = {**{key: value for key, value in given.items() if value is not None}, **parse_pairs(overrides)}
        with Progress(console=console) as bar:
            tasks = {name: bar.add_task(name, total=None) for name in ("read", "label")}

            def tell(name: str, report: UnitReport) -> None:
                bar.update(tasks[name], advance=1)

            counts = label_photos(images, out, space, "clip_cam", settings, tell)
        print_summary(console, counts)
        console.print(f"masks: [bold]{out}/masks[/], page: [bold]{out}/index.html[/]", soft_wrap=True)
