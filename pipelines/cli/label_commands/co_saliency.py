"""`maskmill label co-saliency`: masks of what the photos of a folder share."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.label_commands.common import print_summary
from maskmill.pipelines.core.settings import parse_pairs
from maskmill.pipelines.core.stage import UnitReport

NAME = "co-saliency"
console = Console()


def command(
    images: Annotated[str, typer.Option(help="a folder of photos that share one thing, or folders of such folders")],
    out: Annotated[str, typer.Option(help="where masks, overlays and the page go")],
    model: Annotated[str, typer.Option(help="artefact folder that `maskmill train train/dcfm` left")],
    name: Annotated[str, typer.Option(help="what the shared thing is called in classes.json")] = "object",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="one option of co_saliency, e.g. --set refine=par"),
    ] = None,
) -> None:
    """Masks of the object that all photos of a folder share; each folder is a group of its own, of any size.

    No class names: what is shared is found by comparing the photos. Writes PNG masks, overlays and index.html.
    """
    from maskmill.pipelines.weak.label_photos import label_photos

    with readable_errors(console):
        space = LabelSpace.from_names([name], name="co_saliency")
        settings: dict[str, Any] = {"artifact": model, **parse_pairs(overrides)}
        with Progress(console=console) as bar:
            tasks = {step: bar.add_task(step, total=None) for step in ("read", "label")}

            def tell(step: str, report: UnitReport) -> None:
                bar.update(tasks[step], advance=1)

            counts = label_photos(
                images, out, space, "co_saliency", settings, tell, by_folder=True, how="from what each folder shares"
            )
        print_summary(console, counts)
        console.print(f"masks: [bold]{out}/masks[/], page: [bold]{out}/index.html[/]", soft_wrap=True)
