"""`maskmill label few-shot`: masks of one new class for a folder of photos, from a few labelled ones."""

from typing import Annotated, Any

import typer

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.cli.label_commands.common import LabelerOptions, OutOption, finish, telling
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import parse_nested

NAME = "few-shot"


def command(
    support: Annotated[str, typer.Option(help="folder with images/ and masks/ of the same stems: 1 to 10 examples")],
    images: Annotated[str, typer.Option(help="folder of photos to label, with any folders in it")],
    class_name: Annotated[str, typer.Option("--class", help="name of the class, e.g. 'umbrella'")],
    out: OutOption,
    artifact: Annotated[
        str | None, typer.Option(help="trained network (maskmill train, trainer few_shot); without it: priors alone")
    ] = None,
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Masks of one class from one or a few labelled images. Writes PNG masks, overlays and index.html.

    Without --artifact nothing is trained: CLIP's features are matched with the examples, and its class map of the name
    is added. Photos that show none of the class are listed with that reason.
    """
    from maskmill.pipelines.weak.label_photos import label_photos

    space = LabelSpace.from_names([class_name])
    settings: dict[str, Any] = {"support": support, "class_name": class_name, **parse_nested(overrides)}
    if artifact is not None:
        settings["artifact"] = artifact
    with telling() as tell:
        counts = label_photos(images, out, space, "few_shot", settings, tell)
    finish(out, counts, space)
