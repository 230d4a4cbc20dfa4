"""Photos and hints to masks and instances: read, seeds, affinity network, graph labels, one page to look at."""

from collections.abc import Callable
from typing import Any

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.base import find_classes
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.ingest.folder_names import check_photos
from maskmill.pipelines.stages.label import LabelConfig, label
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.pipelines.weak.boxes import Boxes, write_box_labels
from maskmill.pipelines.weak.label_photos import SHARD_SIZE, label_held
from maskmill.pipelines.weak.photos import rows_by_photo
from maskmill.pipelines.weak.points import Points, write_point_labels
from maskmill.pipelines.weak.scribbles import ScribbleConfig, hints_for_all, read_scribbles
from maskmill.pipelines.weak.tags import Tags
from maskmill.trainers.engine import DataConfig

Tell = Callable[[str, UnitReport], None]
Write = Callable[[str, str], str]  # OUT and its samples: writes WeakLabel rows, returns their folder


def label_boxes(
    images: str,
    boxes: Boxes,
    out_dir: str,
    space: LabelSpace,
    *,
    training: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, int]:
    """Label every photo under `images` that has a box; returns photos by reason (`kept` = labelled).

    Leaves what `label_photos` leaves, and OUT/weak, OUT/seeds, OUT/run and OUT/artifact; a second run takes up what is
    done. `training` are settings of trainer `affinity`, `settings` of labeler `a2gnn`, whose preset is the trainer's
    too where that names none.

    Raises:
        FileNotFoundError: no such folder. ValueError: no box for any photo, or an unknown setting.
        KeyError: a class that the label space lacks.
    """

    def write(out: str, samples: str) -> str:
        if not write_box_labels(samples, boxes, space, f"{out}/weak"):
            raise _none(images, "boxes", sorted(boxes))
        return f"{out}/weak"

    return _label(images, write, out_dir, space, "boxes", training, settings, progress)


def label_points(
    images: str,
    points: Points,
    out_dir: str,
    space: LabelSpace,
    *,
    training: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, int]:
    """`label_boxes` for points: a click an object."""

    def write(out: str, samples: str) -> str:
        if not write_point_labels(samples, points, space, f"{out}/weak"):
            raise _none(images, "points", sorted(points))
        return f"{out}/weak"

    return _label(images, write, out_dir, space, "points", training, settings, progress)


def label_tags(
    images: str,
    tags: Tags,
    out_dir: str,
    space: LabelSpace,
    *,
    training: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, int]:
    """`label_boxes` for tags: the names of what a photo shows."""
    found = {photo: list(find_classes(names, space, photo)) for photo, names in tags.items()}

    def write(out: str, samples: str) -> str:
        def hints(own: list[int]) -> dict[str, Any]:
            return {"class_ids": sorted(own)}

        if not rows_by_photo(samples, found, hints, f"{out}/weak", stage="tags", stamp=space.fingerprint):
            raise _none(images, "tags", sorted(tags))
        return f"{out}/weak"

    return _label(images, write, out_dir, space, "tags", training, settings, progress)


def label_strokes(
    images: str,
    scribbles: str,
    out_dir: str,
    space: LabelSpace,
    *,
    coding: str = "plain",
    training: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, int]:
    """`label_boxes` for scribbles: a folder of STEM.png, coded as `coding` says."""

    def write(out: str, samples: str) -> str:
        wanted = ScribbleConfig(
            samples=samples,
            label_space=space,
            root=scribbles,
            folder="",
            images="",
            coding=coding,  # type: ignore[arg-type]  # checked by pydantic
        )
        counts = read_scribbles(wanted, out)
        if not counts.get("kept"):
            raise _none(images, "scribbles", [f"{scribbles}: {counts}"])
        return hints_for_all(out)

    return _label(images, write, out_dir, space, "scribbles", training, settings, progress)


def _none(images: str, what: str, names: list[str]) -> ValueError:
    named = ", ".join(name for name in names[:3] if name) or f"{what} without a file"
    return ValueError(f"{images}: expected photos that the {what} name ({named}, ...), found none")


def affinity_settings(training: dict[str, Any] | None, settings: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """Settings of the trainer: the labeler's preset where none is named, and the release's window for points and tags.

    The preset `faithful` counts in passes over the photos, as the release does, where no number of steps is given.
    """
    given = dict(training or {})
    if "preset" not in given and settings and "preset" in settings:
        given["preset"] = settings["preset"]
    if given.get("preset") == "faithful":
        if not {"steps", "epochs"} & set(given):
            given["epochs"] = RELEASED_EPOCHS
        if kind in ("points", "tags"):
            given.setdefault("radius", RELEASED_RADIUS)
    return given


RELEASED_EPOCHS = 12
RELEASED_RADIUS = 3  # for points and tags; 4 for boxes and scribbles


def _label(
    images: str,
    write: Write,
    out_dir: str,
    space: LabelSpace,
    kind: str,
    training: dict[str, Any] | None,
    settings: dict[str, Any] | None,
    progress: Tell | None,
) -> dict[str, int]:
    check_photos(images)
    source = FolderSource(root=images, images="", masks=None)

    def tell(name: str) -> Callable[[UnitReport], None] | None:
        return None if progress is None else lambda report: progress(name, report)

    with working(out_dir):
        map_units(ingest_stage(source, space), ingest_units(source, out_dir, SHARD_SIZE), progress=tell("read"))
        samples = f"{out_dir}/samples"
        weak = write(out_dir, samples)
        options = dict(settings or {})
        wanted = {**options, "output": "seeds", "refiner": None}  # the refiner goes over labels
        seeds = LabelConfig(labeler="a2gnn", label_space=space, samples=samples, weak=weak, settings=wanted)
        label(seeds, f"{out_dir}/seeds", progress=tell("seeds"))
        data = DataConfig(samples=(samples,), labels=(f"{out_dir}/seeds",))
        learning = affinity_settings(training, options, kind)
        run = TrainConfig(trainer="affinity", label_space=space, data=data, settings=learning)
        options["affinity"] = train(run, f"{out_dir}/run", f"{out_dir}/artifact")
        return label_held(images, out_dir, space, "a2gnn", options, progress, weak=weak, how=f"from {kind}")
