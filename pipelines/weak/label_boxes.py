"""Photos and boxes to masks and instances: read, seeds, affinity network, graph labels, one page to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.core.stage import UnitReport, map_units
from maskmill.pipelines.ingest import ingest_stage, ingest_units
from maskmill.pipelines.ingest.folder import FolderSource
from maskmill.pipelines.stages.label import LabelConfig, label
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.pipelines.weak.boxes import Boxes, write_box_labels
from maskmill.pipelines.weak.label_photos import SHARD_SIZE, label_photos
from maskmill.trainers.engine import DataConfig

Tell = Callable[[str, UnitReport], None]


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

    Leaves what `label_photos` leaves, and OUT/weak, OUT/seeds, OUT/run and OUT/artefact; a second run takes up what is
    done. `training` are settings of trainer `affinity`, `settings` of labeler `a2gnn`.

    Raises:
        FileNotFoundError: no such folder. ValueError: no box for any photo, or an unknown setting.
        KeyError: a class that the label space lacks.
    """
    if not Path(images).is_dir():
        raise FileNotFoundError(f"{images}: expected a folder of photos, found none")
    source = FolderSource(root=images, images="", masks=None)

    def tell(name: str) -> Callable[[UnitReport], None] | None:
        return None if progress is None else lambda report: progress(name, report)

    map_units(ingest_stage(source, space), ingest_units(source, out_dir, SHARD_SIZE), progress=tell("read"))
    samples, weak = f"{out_dir}/samples", f"{out_dir}/weak"
    if not write_box_labels(samples, boxes, space, weak):
        named = ", ".join(sorted(boxes)[:3]) or "boxes without a file"
        raise ValueError(f"{images}: expected photos that the boxes name ({named}, ...), found none")
    options = dict(settings or {})
    wanted = {**options, "output": "seeds"}
    seeds = LabelConfig(labeler="a2gnn", label_space=space, samples=samples, weak=weak, settings=wanted)
    label(seeds, f"{out_dir}/seeds", progress=tell("seeds"))
    data = DataConfig(samples=(samples,), labels=(f"{out_dir}/seeds",))
    run = TrainConfig(trainer="affinity", label_space=space, data=data, settings=training or {})
    options["affinity"] = train(run, f"{out_dir}/run", f"{out_dir}/artefact")
    return label_photos(images, out_dir, space, "a2gnn", options, progress, weak=weak, how="from boxes")
