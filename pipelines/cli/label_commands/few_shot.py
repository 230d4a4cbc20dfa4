"""`maskmill label few-shot`: masks of one new class for a folder of photos, from a few labelled ones."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.label_commands.common import print_summary
from maskmill.pipelines.core.settings import parse_pairs
from maskmill.pipelines.core.stage import UnitReport

NAME = "few-shot"
console = Console()


def command(
    support: Annotated[str, typer.Option(help="folder with images/ and masks/ of the same stems: 1 to 10 examples")],
    images: Annotated[str, typer.Option(help="folder of photos to label, with any folders in it")],
    class_name: Annotated[str, typer.Option("--class", help="name of the class, e.g. 'umbrella'")],
    out: Annotated[str, typer.Option(help="where masks, overlays and the page go")],
    artifact: Annotated[
        str | None, typer.Option(help="trained network (maskmill train, trainer few_shot); without it: priors alone")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="one option, e.g. --set threshold=0.6 (repeatable)")
    ] = None,
) -> None:
    """Masks of one class from one or a few labelled images. Writes PNG masks, overlays and index.html.

    Without --artifact nothing is trained: CLIP's features are matched with the examples, and its class map of the name
    is added. Photos that show none of the class are listed with that reason.
    """
    from maskmill.pipelines.weak.label_photos import label_photos

    with readable_errors(console):
        settings: dict[str, Any] = {"support": support, "class_name": class_name, **parse_pairs(overrides)}
        if artifact is not None:
            settings["artifact"] = artifact
        with Progress(console=console) as bar:
            tasks = {name: bar.add_task(name, total=None) for name in ("read", "label")}

            def tell(name: str, report: UnitReport) -> None:
                bar.update(tasks[name], advance=1)

            counts = label_photos(images, out, LabelSpace.from_names([class_name]), "few_shot", settings, tell)
        print_summary(console, counts)
        console.print(f"masks: [bold]{out}/masks[/], page: [bold]{out}/index.html[/]", soft_wrap=True)
