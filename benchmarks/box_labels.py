"""Labels of photos with boxes, as benchmarks make and judge them: filled boxes, GrabCut, seeds, graphs."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.box_sets import Photo, object_boxes
from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, decode_mask, encode_mask
from maskmill.labelers import PseudoLabel
from maskmill.labelers.a2gnn import A2gnn
from maskmill.labelers.a2gnn.boxes import PixelBox, box_violations, clamp, empty_boxes, pixel_boxes
from maskmill.labelers.a2gnn.config import RELEASED_CRF
from maskmill.labelers.a2gnn.seeds import allowed_pixels
from maskmill.labelers.a2gnn.view import Task
from maskmill.trainers.engine import SegmentationMetrics

#: A2GNN as it was before a promptable model was asked: seeds from GrabCut alone, and the released dense CRF.
CUTS: dict[str, Any] = {"seeds": {"fusion": "grabcut"}, "prompted_weight": 0.0, "crf": asdict(RELEASED_CRF)}
CHUNK = 6  # images that a thread labels at a time
THREADS = min(2, torch.get_num_threads())


def paint(boxes: Sequence[PixelBox], areas: Sequence[Any], shape: tuple[int, ...]) -> Uint8Array:
    """Areas as one label map, smaller boxes on top."""
    out = np.zeros(shape, np.uint8)
    for number in sorted(range(len(boxes)), key=lambda i: -boxes[i].area):
        out[areas[number]] = boxes[number].class_id
    return out


def plain_labels(model: A2gnn, arm: str, task: Task) -> Uint8Array:
    """`box_fill`, `grabcut` (the box where GrabCut claims nothing; of tasks made with `CUTS`) or `seeds+crf`."""
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
