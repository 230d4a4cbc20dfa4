"""`maskmill label a2gnn`: masks and instances for a folder of photos from boxes."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.label_commands.common import print_summary
from maskmill.pipelines.core.settings import parse_pairs
from maskmill.pipelines.core.stage import UnitReport

NAME = "a2gnn"
console = Console()


def command(
    images: Annotated[str, typer.Option(help="folder of photos, with any folders in it")],
    boxes: Annotated[
        str,
        typer.Option(
            help="folder of VOC XML files, COCO .json, .csv: file,class,x0,y0,x1,y1, or "
            'JSON [{"file": "a.jpg", "name": "dog", "box": [x0, y0, x1, y1]}, …]'
        ),
    ],
    out: Annotated[str, typer.Option(help="where masks, instances, overlays and the page go")],
    label_space: Annotated[
        str | None, typer.Option(help="built-in label space or YAML file; without it: the names in the boxes")
    ] = None,
    skip_difficult: Annotated[bool, typer.Option(help="leave out objects that VOC marks as difficult")] = False,
    steps: Annotated[int, typer.Option(help="training steps of the affinity network")] = 200,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="one option of a2gnn, e.g. --set crf=null (repeatable)")
    ] = None,
) -> None:
    """Masks from boxes: seeds, an affinity network trained on them, then a small graph model for each photo.

    Writes PNG masks, instances.json (COCO), overlays and index.html. Photos without a box are listed with that reason.
    """
    from maskmill.pipelines.export.coco_instances import write_coco_instances
    from maskmill.pipelines.weak.boxes import class_names, read_boxes
    from maskmill.pipelines.weak.label_boxes import label_boxes

    with readable_errors(console):
        found = read_boxes(boxes, difficult=not skip_difficult)
        space = load_label_space(label_space) if label_space else LabelSpace.from_names(class_names(found))
        with Progress(console=console) as bar:
            tasks = {name: bar.add_task(name, total=None) for name in ("read", "seeds", "label")}

            def tell(name: str, report: UnitReport) -> None:
                bar.update(tasks[name], advance=1)

            options = parse_pairs(overrides)
            counts = label_boxes(images, found, out, space, training={"steps": steps}, settings=options, progress=tell)
            write_coco_instances(f"{out}/samples", f"{out}/labels", space, f"{out}/instances.json")
        print_summary(console, counts)
        console.print(f"masks: [bold]{out}/masks[/], page: [bold]{out}/index.html[/]", soft_wrap=True)
