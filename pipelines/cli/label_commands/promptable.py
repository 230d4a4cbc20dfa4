"""`maskmill label promptable`: masks for a folder of photos by SAM and its kin."""

from typing import Annotated, Any

import typer

from maskmill.data_contracts import LabelSpace
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

NAME = "promptable"


def command(
    images: ImagesOption,
    out: OutOption,
    model: Annotated[
        str,
        typer.Option(
            help="folder or hub id: SAM, SAM-HQ, SAM 2, EdgeTAM, or SAM 3's tracker; starter: the small one that ships"
        ),
    ] = "starter",
    boxes: Annotated[
        str | None, typer.Option(help="boxes, in any form that `maskmill label a2gnn --boxes` reads")
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(
            help='.csv: file,class,x,y, or JSON [{"file": "a.jpg", "name": "dog", "point": [x, y]}, …]; the class '
            "`background` says where no object is"
        ),
    ] = None,
    scribbles: Annotated[str | None, typer.Option(help="folder of STEM.png: class ids on strokes")] = None,
    coding: Annotated[str, typer.Option(help="of the scribbles; plain: 255 = not drawn; acdc: 4; sduts: 0")] = "plain",
    classes: Annotated[str | None, typer.Option(help="names with commas, ids 1, 2, … in this order")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="instead of --classes: a built-in label space or a YAML file")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="folder or hub id of a detector that finds boxes by name; see `label detect`")
    ] = None,
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Masks and instances from boxes, points or scribbles; or from class names, where --detector finds the boxes.

    Without prompts and detector, CLIP's class maps say where the classes are. Writes PNG masks, instances.json (COCO),
    overlays and index.html. The starter model sees each box in a cut of its own, keeps to the box and goes through a
    CRF, unless --set says otherwise (zoom=null, clamp_to_boxes=false, crf=null).
    """
    from maskmill.labelers.promptable.config import FOR_STARTER
    from maskmill.pipelines.export.coco_instances import write_coco_instances
    from maskmill.pipelines.weak.boxes import class_names, read_boxes
    from maskmill.pipelines.weak.label_prompts import label_prompts, object_names
    from maskmill.pipelines.weak.points import read_points

    drawn = None if boxes is None else read_boxes(boxes)
    dots = None if points is None else read_points(points)
    names = sorted({*class_names(drawn or {}), *object_names(dots or {})})
    named = not (classes or label_space) and names
    space = LabelSpace.from_names(names) if named else asked_space(classes, label_space)
    usual = FOR_STARTER if model == "starter" else {}
    settings: dict[str, Any] = {**usual, "model": model, **parse_nested(overrides)}
    if detector is not None:
        settings["detector"] = {"model": detector, **(settings.get("detector") or {})}
    with telling() as tell:
        prompts: dict[str, Any] = {"boxes": drawn, "points": dots, "scribbles": scribbles, "coding": coding}
        counts = label_prompts(images, out, space, settings, **prompts, progress=tell)
        write_coco_instances(f"{out}/samples", f"{out}/labels", space, f"{out}/instances.json")
    finish(out, counts, space)
