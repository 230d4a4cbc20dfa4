"""`maskmill label co-saliency`: masks of what the photos of a folder share."""

from typing import Annotated, Any

import typer

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.cli.label_commands.common import LabelerOptions, OutOption, finish, telling
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import parse_nested

NAME = "co-saliency"


def command(
    images: Annotated[str, typer.Option(help="a folder of photos that share one thing, or folders of such folders")],
    out: OutOption,
    artifact: Annotated[
        str, typer.Option("--artifact", "--model", help="what `maskmill train dcfm` left: OUT/artifact")
    ],
    name: Annotated[str, typer.Option(help="what the shared thing is called in classes.json")] = "object",
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Masks of the object that all photos of a folder share; each folder is a group of its own, of any size.

    No class names: what is shared is found by comparing the photos. Writes PNG masks, overlays and index.html.
    """
    from maskmill.pipelines.weak.label_photos import label_photos

    space = LabelSpace.from_names([name], name="co_saliency")
    settings: dict[str, Any] = {"artifact": artifact, **parse_nested(overrides)}
    with telling() as tell:
        counts = label_photos(
            images, out, space, "co_saliency", settings, tell, by_folder=True, how="from what each folder shares"
        )
    finish(out, counts, space)
