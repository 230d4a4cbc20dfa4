"""Photos and hints to masks and instances: read, seeds, affinity network, graph labels, one page to look at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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
from maskmill.pipelines.weak.points import Points, write_point_labels
from maskmill.pipelines.weak.scribbles import ScribbleConfig, hints_for_all, read_scribbles
from maskmill.pipelines.weak.tags import Tags, write_tag_labels
from maskmill.trainers.engine import DataConfig

Tell = Callable[[str, UnitReport], None]
Found = TypeVar("Found", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Hints:
    """What is known of photos: boxes, points, tags or scribbles, and a few of their names for messages."""

    kind: str
    names: Sequence[str]
    write: Callable[[str, str], str | None]  # OUT and its samples to the folder of WeakLabel rows; None = not of these


def box_hints(boxes: Boxes, space: LabelSpace) -> Hints:
    """Boxes of objects. Writing them raises KeyError for a class that the label space lacks."""
    return _by_photo("boxes", boxes, write_box_labels, space)


def point_hints(points: Points, space: LabelSpace) -> Hints:
    """Points: a click an object. Writing them raises KeyError for a class that the label space lacks."""
    return _by_photo("points", points, write_point_labels, space)


def tag_hints(tags: Tags, space: LabelSpace) -> Hints:
    """Tags: the names of what a photo shows.

    Raises:
        ContractError: `unknown_class_name` for a tag that is no class; names it.
    """
    ids = {photo: find_classes(names, space, photo) for photo, names in tags.items()}
    return _by_photo("tags", ids, write_tag_labels, space)


def _by_photo(
    kind: str, found: Found, write_rows: Callable[[str, Found, LabelSpace, str], int], space: LabelSpace
) -> Hints:
    def write(out: str, samples: str) -> str | None:
        return f"{out}/weak" if write_rows(samples, found, space, f"{out}/weak") else None

    return Hints(kind, sorted(found), write)


def scribble_hints(scribbles: str, space: LabelSpace, coding: str = "plain") -> Hints:
    """Scribbles: a folder of STEM.png, coded as `coding` says. Writing them raises ValueError for an unknown coding."""

    def write(out: str, samples: str) -> str | None:
        wanted = ScribbleConfig(
            samples=samples,
            label_space=space,
            root=scribbles,
            folder="",
            images="",
            coding=coding,  # type: ignore[arg-type]  # checked by pydantic
        )
        return hints_for_all(out) if read_scribbles(wanted, out).get("kept") else None

    return Hints("scribbles", [scribbles], write)


def label_from_hints(
    images: str,
    hints: Hints,
    out_dir: str,
    space: LabelSpace,
    *,
    training: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, int]:
    """Label every photo under `images` that has a hint; returns photos by reason (`kept` = labelled).

    Leaves what `label_photos` leaves, and OUT/weak, OUT/seeds, OUT/run and OUT/artifact; a second run takes up what is
    done. `training` are settings of trainer `affinity`, `settings` of labeler `a2gnn`, whose preset is the trainer's
    too where that names none.

    Raises:
        FileNotFoundError: no such folder. ValueError: no hint for any photo, or an unknown setting.
        KeyError: a class that the label space lacks.
    """
    check_photos(images)
    source = FolderSource(root=images, images="", masks=None)

    def tell(name: str) -> Callable[[UnitReport], None] | None:
        return None if progress is None else lambda report: progress(name, report)

    with working(out_dir):
        map_units(ingest_stage(source, space), ingest_units(source, out_dir, SHARD_SIZE), progress=tell("read"))
        samples = f"{out_dir}/samples"
        weak = hints.write(out_dir, samples)
        if weak is None:
            raise _none(images, hints)
        options = dict(settings or {})
        wanted = {**options, "output": "seeds", "refiner": None}  # the refiner goes over labels
        seeds = LabelConfig(labeler="a2gnn", label_space=space, samples=samples, weak=weak, settings=wanted)
        label(seeds, f"{out_dir}/seeds", progress=tell("seeds"))
        data = DataConfig(samples=(samples,), labels=(f"{out_dir}/seeds",))
        learning = affinity_settings(training, options, hints.kind)
        run = TrainConfig(trainer="affinity", label_space=space, data=data, settings=learning)
        options["affinity"] = train(run, f"{out_dir}/run", f"{out_dir}/artifact")
        return label_held(images, out_dir, space, "a2gnn", options, progress, weak=weak, how=f"from {hints.kind}")


def _none(images: str, hints: Hints) -> ValueError:
    named = ", ".join(name for name in hints.names[:3] if name) or f"{hints.kind} without a file"
    return ValueError(f"{images}: expected photos that the {hints.kind} name ({named}, ...), found none")


RELEASED_EPOCHS = 12
RELEASED_RADIUS = 3  # for points and tags; 4 for boxes and scribbles


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
