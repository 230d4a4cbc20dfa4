"""`maskmill label detect`: boxes for a folder of photos from class names."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.label_commands.common import (
    ImagesOption,
    LabelerOptions,
    asked_space,
    check_labelled,
    summary,
    telling,
)
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import parse_nested

NAME = "detect"


def command(
    images: ImagesOption,
    model: Annotated[str, typer.Option(help="folder or hub id: Grounding DINO, MM-Grounding-DINO, OWLv2 or SAM 3")],
    out: Annotated[str, typer.Option(help="where boxes.json and shards go")],
    classes: Annotated[str | None, typer.Option(help="names with commas, e.g. 'horse,person'")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="instead of --classes: a built-in label space or a YAML file")
    ] = None,
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Boxes with scores for a folder of photos from class names. Writes boxes.json and WeakLabel shards in OUT/weak.

    Next, masks from them: `maskmill label a2gnn` or `promptable` with --boxes OUT/boxes.json.
    """
    from maskmill.pipelines.weak.detect_photos import detect_photos

    space = asked_space(classes, label_space)
    settings: dict[str, Any] = {"model": model, **parse_nested(overrides)}
    with telling() as tell:
        counts = detect_photos(images, out, space, settings, tell)
    say(summary(counts).replace("labelled", "found boxes on"))
    say(escape(f"next, masks: maskmill label a2gnn --images {images} --boxes {out}/boxes.json --out {out}-masks"))
    result({"boxes": f"{out}/boxes.json", "weak": f"{out}/weak", "counts": counts})
    check_labelled(counts)
