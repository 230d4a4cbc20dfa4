"""From boxes to masks: what A2GNN's labels are worth beside filled boxes, GrabCut and seeds, and to a segmenter.

Boxes are the tight ones of each object in the true masks of ccp (coarse classes), davis and weizmann_horses. Every set
has three parts, by hash of the stem or the sequence: the affinity network and both segmenters learn from the first,
from boxes alone but for `segmenter_on_truth`; settings are chosen on the second, and the third is tested. One run
measures both: metrics of the development part begin with `dev_`.
Arms: `box_fill`, `grabcut`, `seeds+crf` (fused seeds, filled in by the dense CRF), `a2gnn` (the graph's own labels),
`a2gnn+crf`; `segmenter_on_labels`, `segmenter_on_truth`: one recipe on both kinds of masks.
Metrics: `miou` is the mean over the sets of `miou@SET`; `over_grabcut` is how far `miou` is above GrabCut's of the same
seed, and `over_grabcut@SET`; `box_violation_px` pixels of a class outside all of its boxes,
`empty_boxes` boxes without a pixel of their class; `seconds_per_image`; `speedup_vs_dense` against the dense form, one
image at a time, and `dense_agreement`, the share of pixels on which both agree; `seed_precision`, `seed_coverage`;
`errors_in_doubt`, the share of wrong pixels that the least confident fifth of all pixels in boxes holds.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.box_sets import Parts, Photo, object_boxes, photos
from benchmarks.common import Options, Record, parse_options
from benchmarks.shards import write_rows
from maskmill.data_contracts import (
    IGNORE,
    PSEUDO_LABEL,
    LabelSpace,
    Uint8Array,
    decode_mask,
    encode_image,
    encode_mask,
    foreground_ids,
)
from maskmill.labelers import PseudoLabel
from maskmill.labelers.a2gnn import A2gnn, Config, load
from maskmill.labelers.a2gnn.boxes import PixelBox, box_violations, clamp, empty_boxes, pixel_boxes
from maskmill.labelers.a2gnn.seeds import allowed_pixels
from maskmill.labelers.a2gnn.view import Task
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, SegmentationMetrics
from maskmill.trainers.registry import load_artifact

LABEL_ARMS = ("box_fill", "grabcut", "seeds+crf", "a2gnn", "a2gnn+crf")
SEGMENTER_ARMS = ("segmenter_on_labels", "segmenter_on_truth")
ABOVE = ("seeds+crf", "a2gnn", "a2gnn+crf")  # measured after GrabCut, and set against it
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
CHUNK = 6  # images that a thread labels at a time
THREADS = min(2, torch.get_num_threads())


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


# --- labels


def paint(boxes: Sequence[PixelBox], areas: Sequence[Any], shape: tuple[int, ...]) -> Uint8Array:
    """Areas as one label map, smaller boxes on top."""
    out = np.zeros(shape, np.uint8)
    for number in sorted(range(len(boxes)), key=lambda i: -boxes[i].area):
        out[areas[number]] = boxes[number].class_id
    return out


def plain_labels(model: A2gnn, arm: str, task: Task) -> Uint8Array:
    """`box_fill`, `grabcut` (the box where GrabCut claims nothing) or `seeds+crf` of one image."""
    if arm == "seeds+crf":
        return seeds_and_crf(model, task)
    whole = [allowed_pixels(task.item.image, box) for box in task.boxes]
    cuts = [cut if cut.any() else box for cut, box in zip(task.seeds.plain, whole, strict=True)]
    return paint(task.boxes, whole if arm == "box_fill" else cuts, task.item.image.shape[:2])


def seeds_and_crf(model: A2gnn, task: Task) -> Uint8Array:
    """Seeds with 0.9 certainty, all else open between the classes whose boxes lie there, through the dense CRF."""
    ids, item = np.array([0, *task.class_ids], np.uint8), task.item
    shares = np.full((len(ids), *item.image.shape[:2]), 1 / len(ids), np.float32)
    for channel, value in enumerate(ids):
        at = task.seeds.labels == value
        shares[:, at] = 0.1 / max(len(ids) - 1, 1)
        shares[channel, at] = 0.9
    held = clamp(shares, task.class_ids, task.boxes)
    refined = clamp(model.refine([task], [held])[0], task.class_ids, task.boxes)
    labels: Uint8Array = ids[refined.argmax(axis=0)]
    return labels


Made = dict[str, tuple[list[PseudoLabel], float]]  # by arm: labels, seconds an image


def graph_labels(model: A2gnn, tasks: Sequence[Task]) -> Made:
    """Labels of `a2gnn` and `a2gnn+crf` from one training; images of a size together, a few a time in each thread."""
    begun = time.perf_counter()

    def label(chunk: Sequence[int]) -> tuple[list[PseudoLabel], list[PseudoLabel], float]:
        chosen, shares = model.graph_shares([tasks[i] for i in chunk])
        plain = [model.finish(task, own, own) for task, own in zip(chosen, shares, strict=True)]
        middle = time.perf_counter()
        refined = [model.finish(*parts) for parts in zip(chosen, model.refine(chosen, shares), shares, strict=True)]
        return plain, refined, time.perf_counter() - middle

    order = by_size(tasks)
    chunks = [order[i : i + CHUNK] for i in range(0, len(order), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(label, chunks))
    total, crf = time.perf_counter() - begun, sum(f[2] for f in found) / THREADS
    count = max(len(tasks), 1)
    plain = dict(zip(order, (m for f in found for m in f[0]), strict=True))
    refined = dict(zip(order, (m for f in found for m in f[1]), strict=True))
    return {
        "a2gnn": ([plain[i] for i in range(len(tasks))], (total - crf) / count),
        "a2gnn+crf": ([refined[i] for i in range(len(tasks))], total / count),
    }


def by_size(tasks: Sequence[Task]) -> list[int]:
    """Positions in an order in which images of one size, and of like numbers of classes, are neighbours."""
    return sorted(range(len(tasks)), key=lambda i: (tasks[i].item.image.shape, len(tasks[i].class_ids)))


def timed_labels(arm: str, tasks: Sequence[Task], make: Callable[[Task], Uint8Array]) -> Made:
    """Labels made one by one in each thread."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        labels = [PseudoLabel(mask) for mask in pool.map(make, tasks)]
    return {arm: (labels, (time.perf_counter() - begun) / max(len(tasks), 1))}


def kept(folder: Path, arm: str, tasks: Sequence[Task], make: Callable[[], Made]) -> tuple[list[PseudoLabel], float]:
    """Labels of one arm and seconds an image; made once, then read back."""
    done = folder / arm / "seconds.json"
    if not done.is_file():
        for name, (labels, seconds) in make().items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for task, label in zip(tasks, labels, strict=True):
                for part, pixels in (("mask", label.mask), ("confidence", label.confidence)):
                    if pixels is not None:
                        (folder / name / f"{task.item.sample_id}.{part}.png").write_bytes(encode_mask(pixels))
            (folder / name / "seconds.json").write_text(json.dumps(seconds))

    def read(task: Task, part: str) -> Uint8Array | None:
        path = folder / arm / f"{task.item.sample_id}.{part}.png"
        return decode_mask(path.read_bytes()) if path.is_file() else None

    return [PseudoLabel(read(t, "mask"), read(t, "confidence")) for t in tasks], json.loads(done.read_text())


def judge(labels: Sequence[Uint8Array | None], tested: Sequence[Photo], space: LabelSpace) -> dict[str, float]:
    """mIoU of each set and their mean; broken and empty boxes of all images together."""
    metrics = {source: SegmentationMetrics(space) for source in dict.fromkeys(p.source for p in tested)}
    broken = empty = 0
    for label, photo in zip(labels, tested, strict=True):
        if label is None:
            raise ValueError(f"{photo.item.sample_id}: expected a label, found none")
        metrics[photo.source].update(label, photo.mask)
        boxes = pixel_boxes(object_boxes(photo.mask), (photo.mask.shape[0], photo.mask.shape[1]))
        broken += box_violations(label, boxes, space.ids)
        empty += empty_boxes(label, boxes)
    found = {f"miou@{source}": float(m.compute()["miou"]) for source, m in metrics.items()}
    return {"miou": float(np.mean(list(found.values()))), **found, "box_violation_px": broken, "empty_boxes": empty}


def seed_quality(tasks: Sequence[Task], tested: Sequence[Photo]) -> dict[str, float]:
    """Share of foreground seeds that are right, and of all pixels that are seeds."""
    right = seeds = known = pixels = 0
    for task, photo in zip(tasks, tested, strict=True):
        own = (task.seeds.labels != 0) & (task.seeds.labels != IGNORE)
        right += int((task.seeds.labels == photo.mask)[own].sum())
        seeds += int(own.sum())
        known += int((task.seeds.labels != IGNORE).sum())
        pixels += photo.mask.size
    return {"seed_precision": right / max(seeds, 1), "seed_coverage": known / max(pixels, 1)}


def errors_in_doubt(labels: Sequence[PseudoLabel], tested: Sequence[Photo]) -> float:
    """Share of the wrong pixels inside boxes that lie in the least confident fifth of each image's; 0.2 is chance."""
    caught = wrong = 0
    for label, photo in zip(labels, tested, strict=True):
        if label.mask is None or label.confidence is None:
            raise ValueError(f"{photo.item.sample_id}: expected a label and its confidence")
        inside = np.zeros(photo.mask.shape, bool)
        for box in pixel_boxes(object_boxes(photo.mask), (photo.mask.shape[0], photo.mask.shape[1])):
            inside[box.at] = True
        judged = inside & (photo.mask != IGNORE)
        errors = (label.mask != photo.mask)[judged]
        order = np.argsort(label.confidence[judged], kind="stable")
        caught += int(errors[order[: len(order) // 5]].sum())
        wrong += int(errors.sum())
    return caught / max(wrong, 1)


def speed(model: A2gnn, tasks: Sequence[Task]) -> dict[str, float]:
    """Seconds of the graph models alone: as stacks of tiles, and dense, one by one; one thread, half of the steps. On a
    CPU they are the thread's own seconds, so that other work on the machine does not count. Each form solves one image
    beforehand, untimed.
    """
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    steps = (max(model.config.steps[0] // 2, 1), max(model.config.steps[1] // 2, 1))
    fast = replace(model, config=model.config.model_copy(update={"steps": steps}))
    slow = replace(fast, config=fast.config.model_copy(update={"attention": "dense", "batch": 1}))
    problems = fast.problems(tasks)
    timed = []
    for one in (fast, slow):
        one.solve(problems[:1])
        begun = clock()
        solutions = one.solve(problems)
        timed.append((clock() - begun, [s.logits.argmax(0) for s in solutions]))
    agreed = np.mean([float((a == b).float().mean()) for a, b in zip(timed[0][1], timed[1][1], strict=True)])
    return {"speedup_vs_dense": timed[1][0] / timed[0][0], "dense_agreement": float(agreed)}


# --- training


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
    """One seed's photos and working folder. Boxes become seeds once: all arms share them."""

    parts: Parts
    size: Size
    seed: int
    folder: Path
    seeded: dict[str, tuple[list[Task], float]] = field(default_factory=dict)

    @property
    def space(self) -> LabelSpace:
        return self.parts.space

    def photos(self, part: str) -> list[Photo]:
        """Photos of the part `train`, `dev` or `test`."""
        found: list[Photo] = getattr(self.parts, part)
        return found

    def tasks(self, part: str) -> tuple[list[Task], float]:
        """Seeds of a part's photos, and seconds an image."""
        if part not in self.seeded:
            model = load(Config(**SETTINGS), self.space)
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
        return load(Config(**SETTINGS, affinity=self.affinity(), seed=self.seed), self.space)

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
            labels, seconds = kept(folder, arm, tasks, lambda: graph_labels(model, tasks))
            if part == "dev":
                extra = {}
            elif arm == "a2gnn":
                order = by_size(tasks)
                extra = speed(model, [tasks[i] for i in order[:: max(1, len(order) // self.size.timed)]])
            else:
                extra = {"errors_in_doubt": errors_in_doubt(labels, tested)}
        else:
            model = load(Config(**SETTINGS), self.space)
            labels, seconds = kept(
                folder, arm, tasks, lambda: timed_labels(arm, tasks, lambda task: plain_labels(model, arm, task))
            )
            if arm == "seeds+crf":
                extra = seed_quality(tasks, tested)
        seconds += 0 if arm == "box_fill" else begun
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
        bench = Bench(photos(options, (size.trained, size.tested), seed), size, seed, work / str(seed))
        for arm in arms:
            found = bench.segmenter_arm(arm) if arm in SEGMENTER_ARMS else bench.label_arm(arm)
            if arm in ABOVE:
                found |= over_grabcut(found, record.values["grabcut"][str(seed)])
            record.add(arm, seed, found)
            print(f"seed {seed}: {arm} {record.values[arm][str(seed)]}", flush=True)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run(parse_options("a2gnn", __doc__))
