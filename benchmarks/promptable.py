"""From boxes to masks: a promptable model beside GrabCut and A2GNN, on the photos and boxes of the benchmark `a2gnn`.

`--model FOLDER` names the model: any folder or hub id that labeler `promptable` takes; by default `starter`, the one
that ships. Masks keep to their boxes in all of its arms, as those of GrabCut and A2GNN do.
Arms: `grabcut`, `a2gnn+crf` (seeds from GrabCut, no promptable model, the released dense CRF; its affinity network is
trained on boxes of the other part, as there), `promptable` (one embedding a photo), `promptable+zoom` (each box in a
cut of its own), both with `+crf` as well, `promptable@N points`: one, three and five points an object in place of its
box, and `a2gnn+promptable`: the masks of `a2gnn+crf`, each of their parts redrawn by the model (the labelers'
`refiner`).
Metrics: those of `a2gnn`: `miou` is the mean over the sets of `miou@SET`; `box_violation_px`, `empty_boxes`;
`boundary_f`, the F measure of the objects' outlines within 3 pixels, mean over photos; `seconds_per_image`. `--dev`
measures the development photos, on which `zoom` and clamping were chosen.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.a2gnn import SIZES, Bench
from benchmarks.box_labels import CUTS, graph_labels, judge, kept, plain_labels, timed_labels
from benchmarks.box_sets import Photo, photos
from benchmarks.common import Options, Record, parse_options
from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array, sample_seed
from maskmill.labelers import LabelItem
from maskmill.labelers.a2gnn import load as load_boxes
from maskmill.labelers.promptable import Config, load
from maskmill.labelers.promptable.config import FOR_STARTER
from maskmill.labelers.refiner import Refined
from maskmill.labelers.refiner_options import RefinerConfig
from maskmill.vision.device import pick_device
from maskmill.vision.pretrained import STARTER, model_folder
from maskmill.vision.promptable import load_family
from maskmill.vision.promptable.ask import batches_of

PLAIN_ARMS = ("grabcut", "a2gnn+crf")
REDRAWN = "a2gnn+promptable"
MODEL_ARMS = (
    "promptable",
    "promptable+crf",
    "promptable+zoom",
    "promptable+zoom+crf",
    "promptable@1 points",
    "promptable@3 points",
    "promptable@5 points",
    REDRAWN,
)
REACH = 3  # pixels within which an outline is met


def points_in(photo: Photo, count: int) -> LabelItem:
    """`count` points in each box's object, drawn from its true mask away from its rim where it has an inside."""
    item, rows = photo.item, []
    rng = np.random.default_rng(sample_seed(0, item.sample_id, f"{count} points"))
    for class_id, *corners in item.boxes:
        x0, y0, x1, y1 = (int(v) for v in corners)
        own = (photo.mask[y0:y1, x0:x1] == class_id).astype(np.uint8)
        inner = cv2.distanceTransform(np.pad(own, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.nonzero(inner >= min(3.0, float(inner.max())))
        chosen = rng.permutation(len(x))[:count]
        rows.append(np.stack([np.full(len(chosen), class_id), x[chosen] + x0, y[chosen] + y0], axis=1))
    return LabelItem(item.sample_id, item.image, points=np.concatenate(rows).astype(np.float32))


def outline_f(label: Uint8Array, truth: Uint8Array) -> float:
    """F measure of foreground outlines: what of each lies within `REACH` pixels of the other."""
    found, real = (_outline((m != 0) & (truth != IGNORE)) for m in (label, truth))
    if not found.any() or not real.any():
        return float(found.any() == real.any())
    near = [cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 3) <= REACH for edge in (found, real)]
    precision, recall = float(near[1][found].mean()), float(near[0][real].mean())
    return 2 * precision * recall / max(precision + recall, 1e-9)


def _outline(mask: "np.ndarray[Any, np.dtype[np.bool_]]") -> "np.ndarray[Any, np.dtype[np.bool_]]":
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray(mask & (inner == 0), bool)


def scores(labels: Sequence[Uint8Array | None], tested: Sequence[Photo], space: LabelSpace) -> dict[str, float]:
    """`judge`'s metrics and the outlines'; a photo without a label counts as background."""
    whole = [np.zeros_like(p.mask) if m is None else m for m, p in zip(labels, tested, strict=True)]
    outlines = [outline_f(m, p.mask) for m, p in zip(whole, tested, strict=True)]
    return {**judge(whole, tested, space), "boundary_f": float(np.mean(outlines))}


def plain_arm(bench: Bench, arm: str, part: str) -> dict[str, float]:
    """`grabcut` or `a2gnn+crf`, as the benchmark of A2GNN makes them."""
    tasks, begun = bench.tasks(part)
    folder = bench.folder / part
    if arm == "a2gnn+crf":
        model = bench.model()
        labels, seconds = kept(folder, arm, tasks, lambda: graph_labels(model, tasks))
    else:
        plain = load_boxes(bench.config(), bench.space)
        labels, seconds = kept(
            folder, arm, tasks, lambda: timed_labels(arm, tasks, lambda task: plain_labels(plain, arm, task))
        )
    found = scores([label.mask for label in labels], bench.photos(part), bench.space)
    return {**found, "seconds_per_image": seconds + begun}


def model_arm(model: str, arm: str, tested: Sequence[Photo], space: LabelSpace) -> dict[str, float]:
    """An arm of the promptable model; no seed changes it but through the photos."""
    options: dict[str, Any] = {"model": model, "tags": "none", "clamp_to_boxes": True}
    options["zoom"] = FOR_STARTER["zoom"] if "+zoom" in arm else None
    options["crf"] = {} if arm.endswith("+crf") else None
    count = int(arm.partition("@")[2].split()[0]) if "@" in arm else 0
    items = [points_in(photo, count) if count else photo.item for photo in tested]
    engine = load(Config.model_validate(options), space)
    engine.label(items[:1])  # untimed: what is loaded once
    begun = time.perf_counter()
    labels = engine.label(items)
    seconds = (time.perf_counter() - begun) / max(len(items), 1)
    return {**scores([label.mask for label in labels], tested, space), "seconds_per_image": seconds}


def redrawn_arm(bench: Bench, model: str, part: str) -> dict[str, float]:
    """The labels of `a2gnn+crf`, made once for both arms, behind the refiner; seconds are those of both."""
    tasks, begun = bench.tasks(part)
    network, folder = bench.model(), bench.folder / part
    labels, seconds = kept(folder, "a2gnn+crf", tasks, lambda: graph_labels(network, tasks))
    config = RefinerConfig(kind="promptable", model=model)
    family = load_family(model_folder(model), pick_device(), config.precision)
    refiner = Refined(network, config, bench.space, family, batches_of(family))
    photos = [task.item.image for task in tasks]
    refiner.refined(photos[:1], labels[:1])  # untimed: what is loaded once
    start = time.perf_counter()
    drawn = refiner.refined(photos, labels)
    seconds += begun + (time.perf_counter() - start) / len(photos)
    return {**scores([one.mask for one in drawn], bench.photos(part), bench.space), "seconds_per_image": seconds}


def measured(bench: Bench, arm: str, model: str, part: str) -> dict[str, float]:
    """Figures of one arm on the part `test` or `dev`."""
    if arm in PLAIN_ARMS:
        return plain_arm(bench, arm, part)
    if arm == REDRAWN:
        return redrawn_arm(bench, model, part)
    return model_arm(model, arm, bench.photos(part), bench.space)


def run(options: Options, model: str) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    torch.set_num_threads(1)
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    for seed in options.seeds:
        arms = [arm for arm in (*PLAIN_ARMS, *MODEL_ARMS) if not record.has(arm, seed)]
        if not arms:
            continue
        parts = photos(options, (size.trained, size.tested), seed)
        bench = Bench(parts, size, seed, work / str(seed), CUTS)
        for arm in arms:
            record.add(arm, seed, measured(bench, arm, model, "dev" if options.dev else "test"))
            print(f"seed {seed}: {arm} {record.values[arm][str(seed)]}", flush=True)
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


def main(argv: Sequence[str]) -> None:
    """The flags of every benchmark, and `--model`."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--model", default=STARTER)
    known, rest = own.parse_known_args(argv)
    run(parse_options("promptable", __doc__, rest, has_dev=True), known.model)


if __name__ == "__main__":
    main(sys.argv[1:])
