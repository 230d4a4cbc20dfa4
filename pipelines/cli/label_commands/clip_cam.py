"""`maskmill label clip-cam`: masks for a folder of photos from class names."""

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

NAME = "clip-cam"


def command(
    images: ImagesOption,
    out: OutOption,
    classes: Annotated[str | None, typer.Option(help="names with commas, e.g. 'horse,person'")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="instead of --classes: a built-in label space or a YAML file")
    ] = None,
    model: Annotated[str | None, typer.Option(help="open_clip model, local folder, or `starter`")] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip tag or weight file")] = None,
    preset: Annotated[str | None, typer.Option(help="`starter`, or `faithful` = CLIP-ES on ViT-B/16")] = None,
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Masks for a folder of photos from class names alone; no training. Writes PNG masks, overlays and index.html.

    Which of the classes a photo shows is asked of CLIP; photos that show none are listed with that reason.
    """
    from maskmill.pipelines.weak.label_photos import label_photos

    space = asked_space(classes, label_space)
    given: dict[str, Any] = {"preset": preset, "model": model, "pretrained": pretrained}
    settings = {**{key: value for key, value in given.items() if value is not None}, **parse_nested(overrides)}
    with telling() as tell:
        counts = label_photos(images, out, space, "clip_cam", settings, tell)
    finish(out, counts, space)
