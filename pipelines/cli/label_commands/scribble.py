"""`maskmill label scribble`: masks for a folder of photos from scribbles on some of them."""

from typing import Annotated, Any

import typer

from maskmill.pipelines.cli.label_commands.common import (
    ImagesOption,
    LabelerOptions,
    OutOption,
    asked_space,
    finish,
    telling,
)
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import parse_nested

NAME = "scribble"


def command(
    images: ImagesOption,
    scribbles: Annotated[str, typer.Option(help="folder of STEM.png: class ids on strokes; at the photo's size")],
    out: OutOption,
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
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Train on the scribbled photos, then label all of them. Writes PNG masks, overlays and index.html.

    What was drawn stays as it is. Photos without scribbles are labelled too.
    """
    from maskmill.pipelines.weak.label_scribbles import label_scribbles

    space = asked_space(classes, label_space)
    given: dict[str, Any] = {"training": parse_nested(training), "settings": parse_nested(overrides)}
    with telling() as tell:
        counts = label_scribbles(images, scribbles, out, space, coding=coding, trainer=trainer, progress=tell, **given)
    finish(out, counts, space)
