"""How A2GNN bears wrong seeds: the released check and gate, which never fire, beside ours over rates of wrong seeds.

Photos, boxes and parts are those of `benchmarks.a2gnn`; seeds are its own from GrabCut, of which whole blocks of 8 x 8
pixels inside boxes take the other side (foreground background, background the box's class) until the rate is met. No
affinity network and no dense CRF: it is the graph that has to bear them. Arms: `none`, `released` (its check and gate,
which change nothing), `check` (seeds far from their box's points go, cosines centred), `gate` (edges of negative
centred cosine are cut), `check+gate`. Metrics: `miou@RATE` of the labels.
With --dev the development part.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.box_labels import CUTS, by_size
from benchmarks.box_sets import Photo, photos
from benchmarks.common import Options, Record, parse_options
from maskmill.data_contracts import IGNORE, Uint8Array, sample_seed
from maskmill.labelers.a2gnn import A2gnn, Config, load
from maskmill.labelers.a2gnn.view import Task
from maskmill.trainers.engine import SegmentationMetrics

RATES = (0.0, 0.1, 0.2, 0.3)
BLOCK = 8
ARMS: dict[str, dict[str, Any]] = {
    "none": {"check": "none", "gate": "released"},
    "released": {"check": "released", "check_start": 0, "check_every": 1, "gate": "released"},
    "check": {"check": "centred", "gate": "released"},
    "gate": {"check": "none", "gate": "centred"},
    "check+gate": {"check": "centred", "gate": "centred"},
}
COUNTS = {"small": 4, "full": 40}  # photos a set
SETTINGS: dict[str, Any] = {**CUTS, "crf": None}  # of the labeler; tests make it faster


def spoil(task: Task, rate: float, seed: int) -> Task:
    """The task with `rate` of its seeds inside boxes on the other side, block by block."""
    labels, rng = task.seeds.labels.copy(), np.random.default_rng(sample_seed(seed, task.item.sample_id, "wrong"))
    owner = np.full(labels.shape, IGNORE, np.uint8)
    for box in sorted(task.boxes, key=lambda box: -box.area):
        owner[box.at] = box.class_id
    inside = (owner != IGNORE) & (labels != IGNORE)
    wanted = round(rate * int(inside.sum()))
    rows, columns = (-(-side // BLOCK) for side in labels.shape)
    for block in rng.permutation(rows * columns):
        if wanted <= 0:
            break
        at = np.s_[block // columns * BLOCK :, block % columns * BLOCK :]
        part, own, known = (a[at][:BLOCK, :BLOCK] for a in (labels, owner, inside))
        part[known] = np.where(part[known] == 0, own[known], 0)
        wanted -= int(known.sum())
    return replace(task, seeds=replace(task.seeds, labels=labels))


def measure(model: A2gnn, tasks: Sequence[Task], truths: Sequence[Uint8Array]) -> float:
    """mIoU of the graph's own labels."""
    metrics = SegmentationMetrics(model.space)
    order = by_size(tasks)
    chosen, shares = model.graph_shares([tasks[i] for i in order])
    for place, task, own in zip(order, chosen, shares, strict=True):
        mask = model.finish(task, own, own).mask
        assert mask is not None
        metrics.update(mask, truths[place])
    return float(metrics.compute()["miou"])


def run(options: Options) -> None:
    """All arms at all rates for all seeds."""
    record = Record.open(options)
    for seed in options.seeds:
        if all(record.has(arm, seed) for arm in ARMS):
            continue
        parts = photos(options, (0, COUNTS[options.budget]), seed)
        shown: list[Photo] = parts.dev if options.dev else parts.test
        config = Config.model_validate({"instances": False, "seed": seed, **SETTINGS})
        model = load(config, parts.space)
        pairs = [(model.task(photo.item), photo.mask) for photo in shown]
        known = [(task, mask) for task, mask in pairs if task is not None]
        truths = [mask for _, mask in known]
        for arm, changes in ARMS.items():
            if record.has(arm, seed):
                continue
            own = replace(model, config=config.model_copy(update=changes))
            found = {
                f"miou@{rate}": measure(own, [spoil(task, rate, seed) for task, _ in known], truths) for rate in RATES
            }
            record.add(arm, seed, found)
            print(f"seed {seed}: {arm} {found}", flush=True)
    record.finish()


if __name__ == "__main__":
    run(parse_options("wrong_seeds", __doc__, has_dev=True))
