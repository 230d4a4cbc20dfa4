"""Photos and the scribbles on some of them to masks for all of them: read, train, label, one page to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskmill.data_contracts import SAMPLE, WEAK_LABEL, LabelSpace, content_id, list_shards, read_shard, write_shard
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.pipelines.weak.label_photos import SHARD_SIZE, label_photos
from maskmill.pipelines.weak.scribbles import ScribbleConfig, read_scribbles
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
    and OUT/weak, OUT/run and OUT/artefact; a second run takes up what is done. `training` are settings of the trainer,
    `settings` those of the labeler.

    Raises:
        FileNotFoundError: no such folder. ValueError: no usable scribble, or an unknown setting.
    """
    for folder in (images, scribbles):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: expected a folder, found none")
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
    artefact = train(run, f"{out_dir}/run", f"{out_dir}/artefact")
    options = {"artifact": artefact, **(settings or {})}
    return label_photos(
        images, out_dir, space, "scribble", options, progress, weak=_hints(out_dir), how=f"trained by {trainer}"
    )


def _usable(out_dir: str) -> bool:
    return any(read_shard(path, WEAK_LABEL, ["sample_id"]).num_rows for path in list_shards(f"{out_dir}/weak"))


def _hints(out_dir: str) -> str:
    """WeakLabel shards with a row for every photo, its scribble or nothing: photos without strokes get labels too."""
    for path in list_shards(f"{out_dir}/samples"):
        name = Path(path).name
        drawn = {row["sample_id"]: row for row in read_shard(f"{out_dir}/weak/{name}", WEAK_LABEL).to_pylist()}
        ids = [row["sample_id"] for row in read_shard(path, SAMPLE, ["sample_id"]).to_pylist()]
        table = WEAK_LABEL.table([drawn.get(sample_id, {"sample_id": sample_id}) for sample_id in ids])
        stamp = content_id(*ids, *sorted(drawn))
        write_shard(f"{out_dir}/hints/{name}", table, WEAK_LABEL, stage="hints", fingerprint=stamp)
    return f"{out_dir}/hints"
