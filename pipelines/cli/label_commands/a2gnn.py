"""`maskmill label a2gnn`: masks and instances for a folder of photos from boxes."""

from typing import Annotated

import typer

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.pipelines.cli.label_commands.common import ImagesOption, LabelerOptions, OutOption, finish, telling
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import parse_pairs

NAME = "a2gnn"


def command(
    images: ImagesOption,
    boxes: Annotated[
        str,
        typer.Option(
            help="folder of VOC XML files, COCO .json, .csv: file,class,x0,y0,x1,y1, or "
            'JSON [{"file": "a.jpg", "name": "dog", "box": [x0, y0, x1, y1]}, …]'
        ),
    ],
    out: OutOption,
    label_space: Annotated[
        str | None, typer.Option(help="built-in label space or YAML file; without it: the names in the boxes")
    ] = None,
    skip_difficult: Annotated[bool, typer.Option(help="leave out objects that VOC marks as difficult")] = False,
    steps: Annotated[int, typer.Option(help="training steps of the affinity network")] = 200,
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Masks from boxes: seeds, an affinity network trained on them, then a small graph model for each photo.

    Writes PNG masks, instances.json (COCO), overlays and index.html. Photos without a box are listed with that reason.
    """
    from maskmill.pipelines.export.coco_instances import write_coco_instances
    from maskmill.pipelines.weak.boxes import class_names, read_boxes
    from maskmill.pipelines.weak.label_boxes import label_boxes

    found = read_boxes(boxes, difficult=not skip_difficult)
    space = load_label_space(label_space) if label_space else LabelSpace.from_names(class_names(found))
    with telling() as tell:
        options = parse_pairs(overrides)
        counts = label_boxes(images, found, out, space, training={"steps": steps}, settings=options, progress=tell)
        write_coco_instances(f"{out}/samples", f"{out}/labels", space, f"{out}/instances.json")
    finish(out, counts, space)
