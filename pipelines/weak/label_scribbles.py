"""Photos and the scribbles on some of them to masks for all of them: read, train, label, one page to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskmill.data_contracts import WEAK_LABEL, LabelSpace, list_shards, read_shard
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.pipelines.weak.label_photos import SHARD_SIZE, label_held
from maskmill.pipelines.weak.scribbles import ScribbleConfig, hints_for_all, read_scribbles
from maskmill.trainers.engine import DataConfig

Tell = Callable[[str, UnitReport], None]


def label_scribbles(
    images: str,
    scribbles: str,
    out_dir: str,
    space: LabelSpace,
    *,
    coding: str = "plain",
    trainer: str = "dfr",
    training: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    progress: Tell | None = None,
) -> dict[str, int]:
    """Train `trainer` on the scribbled photos and label every photo under `images`; returns photos by reason.

    `scribbles` holds STEM.png for the photos that have one, coded as `coding` says. Leaves what `label_photos` leaves,
    and OUT/weak, OUT/run and OUT/artifact; a second run takes up what is done. `training` are settings of the trainer,
    `settings` those of the labeler.

    Raises:
        FileNotFoundError: no such folder. ValueError: no usable scribble, or an unknown setting.
    """
    for folder in (images, scribbles):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: expected a folder, found none")
    with working(out_dir):
        return _label_scribbles(images, scribbles, out_dir, space, coding, trainer, training, settings, progress)


def _label_scribbles(
    images: str,
    scribbles: str,
    out_dir: str,
    space: LabelSpace,
    coding: str,
    trainer: str,
    training: dict[str, Any] | None,
    settings: dict[str, Any] | None,
    progress: Tell | None,
) -> dict[str, int]:
    source = FolderSource(root=images, images="", masks=None)

    def tell(name: str) -> Callable[[UnitReport], None] | None:
        return None if progress is None else lambda report: progress(name, report)

    map_units(ingest_stage(source, space), ingest_units(source, out_dir, SHARD_SIZE), progress=tell("read"))
    wanted = ScribbleConfig(
        samples=f"{out_dir}/samples",
        label_space=space,
        root=scribbles,
        folder="",
        images="",
        coding=coding,  # type: ignore[arg-type]  # checked by pydantic
    )
    counts = read_scribbles(wanted, out_dir, progress=tell("scribbles"))
    if not _usable(out_dir):
        raise ValueError(f"{scribbles}: expected STEM.png with strokes for photos of {images}, found none ({counts})")
    data = DataConfig(samples=(f"{out_dir}/samples",), weak=(f"{out_dir}/weak",))
    run = TrainConfig(trainer=trainer, label_space=space, data=data, settings=training or {})
    artifact = train(run, f"{out_dir}/run", f"{out_dir}/artifact")
    options = {"artifact": artifact, **(settings or {})}
    return label_held(
        images, out_dir, space, "scribble", options, progress, weak=hints_for_all(out_dir), how=f"trained by {trainer}"
    )


def _usable(out_dir: str) -> bool:
    return any(read_shard(path, WEAK_LABEL, ["sample_id"]).num_rows for path in list_shards(f"{out_dir}/weak"))
