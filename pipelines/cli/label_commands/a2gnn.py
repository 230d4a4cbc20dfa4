"""`maskmill label a2gnn`: masks and instances for a folder of photos from boxes, scribbles, points or tags."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.pipelines.cli.label_commands.common import ImagesOption, LabelerOptions, OutOption, finish, telling
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import ConfigError, parse_nested

if TYPE_CHECKING:
    from maskmill.pipelines.weak.label_hints import Hints

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
    hints, space = _read(chosen[0], str(given[chosen[0]]), label_space, skip_difficult, coding)
    with telling() as tell:
        from maskmill.pipelines.weak.label_hints import label_from_hints

        training = _training(steps, settings)
        counts = label_from_hints(images, hints, out, space, training=training, settings=settings, progress=tell)
        if boxes is not None:
            from maskmill.pipelines.export.coco_instances import write_coco_instances

            write_coco_instances(f"{out}/samples", f"{out}/labels", space, f"{out}/instances.json")
    finish(out, counts, space)


def _training(steps: int | None, settings: dict[str, Any]) -> dict[str, Any]:
    if steps is None:
        return {} if settings.get("preset") == "faithful" else {"steps": STEPS}
    return {"steps": steps}


def _read(
    option: str, path: str, label_space: str | None, skip_difficult: bool, coding: str
) -> tuple["Hints", LabelSpace]:
    """What an option's file or folder says of the photos; the classes of `label_space`, or else the names in it."""
    from maskmill.pipelines.weak import boxes, label_hints, points, tags

    if option == "--scribbles":
        if label_space is None:
            raise ConfigError("--scribbles hold ids, not names: say --label-space")
        space = load_label_space(label_space)
        return label_hints.scribble_hints(path, space, coding), space
    read_boxes = partial(boxes.read_boxes, difficult=not skip_difficult)
    ways: dict[str, tuple[Any, Any, Any]] = {  # reader, names, hints
        "--boxes": (read_boxes, boxes.class_names, label_hints.box_hints),
        "--points": (points.read_points, points.point_names, label_hints.point_hints),
        "--tags": (tags.read_tags, tags.names_in, label_hints.tag_hints),
    }
    read, names_in, hints_of = ways[option]
    found = read(path)
    space = load_label_space(label_space) if label_space else LabelSpace.from_names(names_in(found))
    return hints_of(found, space), space
