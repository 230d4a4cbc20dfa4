"""From boxes to masks: what A2GNN's labels are worth beside filled boxes, GrabCut and seeds, and to a segmenter.

Boxes are the tight ones of each object in the true masks of ccp (coarse classes), davis and weizmann_horses. Every set
has three parts, by hash of the stem or the sequence: the affinity network and both segmenters learn from the first,
from boxes alone but for `segmenter_on_truth`; settings are chosen on the second, and the third is tested. One run
measures both: metrics of the development part begin with `dev_`.
Arms: `box_fill`, `grabcut`, `promptable+crf` (the starter model of labeler `promptable`, as it is asked there),
`seeds+crf` (seeds from that model's claims, filled in by the dense CRF), `a2gnn_cuts+crf` (seeds from GrabCut, no
promptable model, the released CRF), `a2gnn` (the graph's own labels, joined by the model's shares), `a2gnn+crf`;
`segmenter_on_labels`, `segmenter_on_truth`: one recipe on both kinds of masks.
Metrics: `miou` is the mean over the sets of `miou@SET`; `over_grabcut` is how far `miou` is above GrabCut's of the same
seed, and `over_grabcut@SET`; `box_violation_px` pixels of a class outside all of its boxes,
`empty_boxes` boxes without a pixel of their class; `seconds_per_image`; `speedup_vs_dense` against the dense form, one
image at a time, and `dense_agreement`, the share of pixels on which both agree; `seed_precision`, `seed_coverage`;
`errors_in_doubt`, the share of wrong pixels that the least confident fifth of all pixels in boxes holds.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.box_labels import (
    CUTS,
    THREADS,
    Made,
    by_size,
    errors_in_doubt,
    graph_labels,
    judge,
    kept,
    plain_labels,
    seed_quality,
    speed,
    timed_labels,
)
from benchmarks.box_sets import Parts, Photo, photos
from benchmarks.common import Options, Record, parse_options
from benchmarks.shards import write_rows
from maskmill.data_contracts import (
    PSEUDO_LABEL,
    LabelSpace,
    Uint8Array,
    encode_image,
    encode_mask,
    foreground_ids,
)
from maskmill.labelers import PseudoLabel
from maskmill.labelers.a2gnn import A2gnn, Config, load
from maskmill.labelers.a2gnn.view import Task
from maskmill.labelers.promptable import Config as PromptableConfig
from maskmill.labelers.promptable import load as load_promptable
from maskmill.labelers.promptable.config import FOR_STARTER
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.registry import load_artifact

LABEL_ARMS = ("box_fill", "grabcut", "promptable+crf", "seeds+crf", "a2gnn_cuts+crf", "a2gnn", "a2gnn+crf")
OF_CUTS = ("grabcut", "a2gnn_cuts+crf")
SEGMENTER_ARMS = ("segmenter_on_labels", "segmenter_on_truth")
ABOVE = LABEL_ARMS[2:]  # measured after GrabCut, and set against it
OWN: dict[str, dict[str, Any]] = {"": {}, "cuts": CUTS}  # options of the labeler, by the name of the working folder
SETTINGS: dict[str, Any] = {}  # of the labeler; tests make it and the trainers faster
TRAINING: dict[str, dict[str, Any]] = {
    "affinity": {},
    "supervised": {
        "batch": 4,
        "segmenter": {
            "architecture": "fpn",
            "options": {"decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64},
        },
        "augment": {"size": 160, "fit": "short", "scale": (0.75, 1.5)},
        "encoder_lr_factor": 0.3,
    },
}


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    trained: int  # images a set
    tested: int
    affinity_steps: int
    segmenter_steps: int
    timed: int  # images that the dense form solves as well


SIZES = {
    "small": Size(trained=20, tested=8, affinity_steps=250, segmenter_steps=450, timed=8),
    "full": Size(trained=150, tested=60, affinity_steps=1000, segmenter_steps=1600, timed=24),
}


def write_samples(folder: Path, photos: Sequence[Photo], space: LabelSpace) -> str:
    """The photos as one Sample shard with their true masks."""
    rows = []
    for photo in photos:
        image, mask = encode_image(photo.image), encode_mask(photo.mask)
        rows.append(
            {
                "sample_id": photo.item.sample_id,
                "image": {"bytes": image, "path": None},
                "mask": {"bytes": mask, "path": None},
                "height": photo.mask.shape[0],
                "width": photo.mask.shape[1],
                "class_ids": foreground_ids(photo.mask, space),
                "provenance": {"source": photo.source},
            }
        )
    return write_rows(rows, folder)


def write_labels(folder: Path, photos: Sequence[Photo], labels: Sequence[PseudoLabel], space: LabelSpace) -> str:
    """Labels of the photos as one PseudoLabel shard."""
    names = [photo.item.sample_id for photo in photos]
    rows = [label.row(n, "a2gnn", "benchmark", space) for n, label in zip(names, labels, strict=True)]
    return write_rows(rows, folder, PSEUDO_LABEL)


@dataclass(frozen=True, eq=False)
class Bench:
    """One seed's photos and working folder. Boxes become seeds once: all arms share them. `own`: of the labeler."""

    parts: Parts
    size: Size
    seed: int
    folder: Path
    own: Mapping[str, Any] = field(default_factory=dict)
    seeded: dict[str, tuple[list[Task], float]] = field(default_factory=dict)

    @property
    def space(self) -> LabelSpace:
        return self.parts.space

    def config(self, **more: Any) -> Config:
        """The labeler's options: the benchmark's, this bench's own over them, and `more`."""
        seeds = {**SETTINGS.get("seeds", {}), **self.own.get("seeds", {})}
        return Config.model_validate({**SETTINGS, **self.own, **({"seeds": seeds} if seeds else {}), **more})

    def photos(self, part: str) -> list[Photo]:
        """Photos of the part `train`, `dev` or `test`."""
        found: list[Photo] = getattr(self.parts, part)
        return found

    def tasks(self, part: str) -> tuple[list[Task], float]:
        """Seeds of a part's photos, and seconds an image."""
        if part not in self.seeded:
            model = load(self.config(), self.space)
            if self.photos(part):
                model.task(self.photos(part)[0].item)  # untimed: what is loaded once
            items = [photo.item for photo in self.photos(part)]
            begun = time.perf_counter()
            with ThreadPoolExecutor(THREADS) as pool:
                found = [task for task in pool.map(model.task, items) if task is not None]
            if len(found) < len(items):
                raise ValueError(f"{part}: expected boxes in {len(items)} photos, found them in {len(found)}")
            self.seeded[part] = found, (time.perf_counter() - begun) / max(len(items), 1)
        return self.seeded[part]

    def affinity(self) -> str:
        """The affinity network's artifact, trained on seeds of the trained photos."""
        labels = [PseudoLabel(task.seeds.labels) for task in self.tasks("train")[0]]
        data = DataConfig(
            samples=(write_samples(self.folder / "train_samples", self.parts.train, self.space),),
            labels=(write_labels(self.folder / "train_seeds", self.parts.train, labels, self.space),),
        )
        return self.train("affinity", data, {"steps": self.size.affinity_steps}, "affinity")

    def train(self, trainer: str, data: DataConfig, settings: dict[str, Any], name: str) -> str:
        runtime = {"progress": False, "save_every": 50, "threads": THREADS}
        wanted = {"seed": self.seed, "runtime": runtime, **TRAINING[trainer], **settings}
        config = TrainConfig(trainer=trainer, label_space=self.space, data=data, settings=wanted)
        artifact = train(config, str(self.folder / name / "run"), str(self.folder / name / "artifact"))
        torch.set_num_threads(1)
        return artifact

    def model(self) -> A2gnn:
        return load(self.config(affinity=self.affinity(), seed=self.seed), self.space)

    def label_arm(self, arm: str) -> dict[str, float]:
        """Metrics of the tested part, and of the development part how good its labels are."""
        developed = self.label_part(arm, "dev") if self.parts.dev else {}
        return {**self.label_part(arm, "test"), **{f"dev_{k}": v for k, v in developed.items() if "miou" in k}}

    def label_part(self, arm: str, part: str) -> dict[str, float]:
        """Metrics of one arm on one part; speed and doubt are measured on the tested one."""
        tasks, begun = self.tasks(part)
        folder, tested = self.folder / part, self.photos(part)
        extra: dict[str, float] = {}
        if arm.startswith("a2gnn"):
            model = self.model()
            name = "a2gnn" if arm == "a2gnn" else "a2gnn+crf"
            labels, seconds = kept(folder, name, tasks, lambda: graph_labels(model, tasks))
            if part == "dev":
                extra = {}
            elif arm == "a2gnn":
                order = by_size(tasks)
                extra = speed(model, [tasks[i] for i in order[:: max(1, len(order) // self.size.timed)]])
            elif arm == "a2gnn+crf":
                extra = {"errors_in_doubt": errors_in_doubt(labels, tested)}
        elif arm == "promptable+crf":
            labels, seconds = kept(folder, arm, tasks, lambda: promptable_labels(arm, tasks, self.space))
        else:
            model = load(self.config(), self.space)
            labels, seconds = kept(
                folder, arm, tasks, lambda: timed_labels(arm, tasks, lambda task: plain_labels(model, arm, task))
            )
            if arm == "seeds+crf":
                extra = seed_quality(tasks, tested)
        seconds += 0 if arm in ("box_fill", "promptable+crf") else begun
        scores = judge([label.mask for label in labels], tested, self.space)
        return {**scores, "seconds_per_image": seconds, **extra}

    def segmenter_arm(self, arm: str) -> dict[str, float]:
        data = DataConfig(samples=(write_samples(self.folder / "train_samples", self.parts.train, self.space),))
        if arm == "segmenter_on_labels":
            tasks, model = self.tasks("train")[0], self.model()
            labels, _ = kept(self.folder / "train", "a2gnn+crf", tasks, lambda: graph_labels(model, tasks))
            folder = write_labels(self.folder / "train_masks", self.parts.train, labels, self.space)
            data = data.model_copy(update={"labels": (folder,)})
        settings = {"steps": self.size.segmenter_steps}
        predictor = load_artifact(self.train("supervised", data, settings, arm))
        found: dict[str, float] = {}
        for part, prefix in (("test", ""), ("dev", "dev_")):
            if tested := self.photos(part):
                scores = judge(predictor.labels([photo.image for photo in tested]), tested, self.space)
                found |= {f"{prefix}{name}": value for name, value in scores.items() if name.startswith("miou")}
        return found


def promptable_labels(arm: str, tasks: Sequence[Task], space: LabelSpace) -> Made:
    """Labels of the starter model, a photo a call; where it finds nothing, background."""
    engine = load_promptable(PromptableConfig.model_validate({"tags": "none", **FOR_STARTER}), space)
    engine.label([tasks[0].item])  # untimed: what is loaded once

    def label(task: Task) -> Uint8Array:
        (found,) = engine.label([task.item])
        return np.zeros(task.item.image.shape[:2], np.uint8) if found.mask is None else found.mask

    return timed_labels(arm, tasks, label)


def over_grabcut(own: dict[str, float], grabcut: dict[str, float]) -> dict[str, float]:
    """How far an arm's `miou` (of every set and part) is above GrabCut's of the same seed."""
    shared = [name for name in own if "miou" in name and name in grabcut]
    return {name.replace("miou", "over_grabcut"): own[name] - grabcut[name] for name in shared}


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    torch.set_num_threads(1)  # labels are made in two threads
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    for seed in options.seeds:
        arms = [arm for arm in (*LABEL_ARMS, *SEGMENTER_ARMS) if not record.has(arm, seed)]
        if not arms:
            continue
        parts = photos(options, (size.trained, size.tested), seed)
        bench, cuts = (Bench(parts, size, seed, work / f"{seed}{own}", OWN[own]) for own in OWN)
        for arm in arms:
            chosen = cuts if arm in OF_CUTS else bench
            found = chosen.segmenter_arm(arm) if arm in SEGMENTER_ARMS else chosen.label_arm(arm)
            if arm in ABOVE:
                found |= over_grabcut(found, record.values["grabcut"][str(seed)])
            record.add(arm, seed, found)
            print(f"seed {seed}: {arm} {record.values[arm][str(seed)]}", flush=True)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("a2gnn", __doc__))
