"""`maskmill label a2gnn`: masks and instances for a folder of photos from boxes, scribbles, points or tags."""

from typing import Annotated, Any

import typer

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.pipelines.cli.label_commands.common import ImagesOption, LabelerOptions, OutOption, finish, telling
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import ConfigError, parse_nested

NAME = "a2gnn"
STEPS = 200  # of the affinity network, where no preset counts otherwise


def command(
    images: ImagesOption,
    out: OutOption,
    boxes: Annotated[
        str | None,
        typer.Option(
            help="folder of VOC XML files, COCO .json, .csv: file,class,x0,y0,x1,y1, or "
            'JSON [{"file": "a.jpg", "name": "dog", "box": [x0, y0, x1, y1]}, …]'
        ),
    ] = None,
    scribbles: Annotated[
        str | None, typer.Option(help="or: folder of STEM.png, class ids on strokes; needs --label-space")
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(help='or: .csv: file,class,x,y, or JSON [{"file": "a.jpg", "name": "dog", "point": [x, y]}, …]'),
    ] = None,
    tags: Annotated[
        str | None, typer.Option(help='or: JSON {"photo.jpg": ["horse"], …} or CSV with columns file, classes')
    ] = None,
    coding: Annotated[
        str, typer.Option(help="of scribbles: plain: 255 = not drawn; acdc: 4; sduts: 0, with 1 object, 2 background")
    ] = "plain",
    label_space: Annotated[
        str | None, typer.Option(help="built-in label space or YAML file; without it: the names in the hints")
    ] = None,
    skip_difficult: Annotated[bool, typer.Option(help="leave out objects that VOC marks as difficult")] = False,
    steps: Annotated[
        int | None,
        typer.Option(help=f"training steps of the affinity network; {STEPS}, or 12 epochs with preset=faithful"),
    ] = None,
    overrides: LabelerOptions = None,
    as_json: JsonOption = False,
) -> None:
    """Masks from boxes, scribbles, points or tags: seeds, an affinity network trained on them, a small graph model a
    photo.

    The preset of the labeler (--set preset=faithful) is the affinity network's too. Writes PNG masks, instances.json
    (COCO, where there are boxes), overlays and index.html. Photos without a hint are listed with that reason.
    """
    given = {"--boxes": boxes, "--scribbles": scribbles, "--points": points, "--tags": tags}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ConfigError(f"expected one of {', '.join(given)}, found {' and '.join(chosen) or 'none'}")
    settings = parse_nested(overrides)
    common: dict[str, Any] = {"settings": settings, "training": _training(steps, settings)}
    with telling() as tell:
        common["progress"] = tell
        if boxes is not None:
            counts, space = _from_boxes(images, boxes, out, label_space, skip_difficult, common)
        elif points is not None:
            counts, space = _from_points(images, points, out, label_space, common)
        elif tags is not None:
            counts, space = _from_tags(images, tags, out, label_space, common)
        else:
            counts, space = _from_scribbles(images, str(scribbles), out, label_space, coding, common)
    finish(out, counts, space)


def _training(steps: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    if steps is None:
        return {} if settings.get("preset") == "faithful" else {"steps": STEPS}
    return {"steps": steps}


Done = tuple[dict[str, int], LabelSpace]


def _from_boxes(
    images: str, boxes: str, out: str, label_space: str | None, skip_difficult: bool, common: dict[str, Any]
) -> Done:
    from maskmill.pipelines.export.coco_instances import write_coco_instances
    from maskmill.pipelines.weak.boxes import class_names, read_boxes
    from maskmill.pipelines.weak.label_boxes import label_boxes

    found = read_boxes(boxes, difficult=not skip_difficult)
    space = load_label_space(label_space) if label_space else LabelSpace.from_names(class_names(found))
    counts = label_boxes(images, found, out, space, **common)
    write_coco_instances(f"{out}/samples", f"{out}/labels", space, f"{out}/instances.json")
    return counts, space


def _from_points(images: str, points: str, out: str, label_space: str | None, common: dict[str, Any]) -> Done:
    from maskmill.pipelines.weak.label_boxes import label_points
    from maskmill.pipelines.weak.points import point_names, read_points

    found = read_points(points)
    space = load_label_space(label_space) if label_space else LabelSpace.from_names(point_names(found))
    return label_points(images, found, out, space, **common), space


def _from_tags(images: str, tags: str, out: str, label_space: str | None, common: dict[str, Any]) -> Done:
    from maskmill.pipelines.weak.label_boxes import label_tags
    from maskmill.pipelines.weak.tags import names_in, read_tags

    found = read_tags(tags)
    space = load_label_space(label_space) if label_space else LabelSpace.from_names(names_in(found))
    return label_tags(images, found, out, space, **common), space


def _from_scribbles(
    images: str, scribbles: str, out: str, label_space: str | None, coding: str, common: dict[str, Any]
) -> Done:
    from maskmill.pipelines.weak.label_boxes import label_strokes

    if label_space is None:
        raise ConfigError("--scribbles hold ids, not names: say --label-space")
    space = load_label_space(label_space)
    return label_strokes(images, scribbles, out, space, coding=coding, **common), space
