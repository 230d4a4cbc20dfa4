"""Does selection pay where labels are faulty? Photos with true masks; a share of the masks is spoilt as annotators and
pseudo-labelers spoil them; the same small segmenter is trained on what each arm keeps, and tested on clean photos.

Sets: horses, people, CCP, DAVIS objects (as animal, vehicle, person: its sequences are split) and CamVid. Faults, in
turns: wrong class, mask of another photo, shifted, coarse polygon, object missing, objects merged, on 10, 25 and 50 %
of the trained photos; and `grabcut`, where all masks are GrabCut's in boxes (CamVid, which has no background, has
none). Nothing but the mask says what a photo shows.

Arms (what is trained on):
    all               everything
    sds_gate          what the default score and selection keep
    sds_half          the half that ranks best by the default annotation score, after the quarter with the lowest
                      image scores went
    random_same_size  as many as sds_gate keeps, by chance
    oracle            what carries no fault (of GrabCut's masks: those with IoU of at least 0.5)
    small_loss        what a segmenter, trained for a third of the steps on everything, does not find hard: the lower
                      of two normal distributions of the losses, everything where one describes them as well
    confident         our reading of confident learning (Northcutt, Jiang, Chuang, JAIR 2021): a cell is wrong if a
                      class other than its own, at least as probable as it is on average in cells of its own label, is
                      the most probable of such; photos are dropped where more than half of a class' cells are wrong.
                      Probabilities are those of segmenters of three folds
    cleanlab          the same probabilities through the library cleanlab (segmentation, its own threshold 0.1), where
                      it is installed
    cross_fit         what reaches 0.7 of the agreement that is typical of its classes, by scorer `cross_fit`
An arm that would keep no photo at all is trained on everything, and its dropped photos are counted as they are.
Metrics: `miou@10`, `miou@25`, `miou@50`, `miou@grabcut`, mean over the sets of mIoU on clean photos, over the classes
that they show; `faults_caught`, `clean_kept`, mean over the three rates and the sets (coarse polygons among the
faults); by set as `miou@25.horses` and so on.

The segmenter is a small network over cells of a frozen ImageNet encoder, whose features are kept beside the JSON file;
scorer `cross_fit` reads the same features. Settings were chosen on development parts (--dev).
"""

import importlib.util
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.clean_arms import ARMS, Scene, choose
from benchmarks.clean_learn import Cells, train_and_test
from benchmarks.clean_sets import PSEUDO, CleanSet, deal_kinds, grabcut, load_clean_sets, spoil
from benchmarks.common import Options, Record, parse_options
from maskmill.curation.cross_fit.features import FrozenFeatures
from maskmill.data_contracts import Uint8Array, foreground_ids

RATES = (10, 25, 50)
SOUND_IOU = 0.5  # of a pseudo-label that counts as no fault
Found = dict[str, dict[str, float]]  # metrics by arm


@dataclass(frozen=True)
class Spoilt:
    """A set under one condition: masks as they are given, and which of them are faulty."""

    masks: list[Uint8Array]
    faulty: frozenset[int]


def conditions(one: CleanSet) -> list[str]:
    """What a set is measured under."""
    return [*map(str, RATES), *(PSEUDO if one.space.background_id is not None else ())]


def spoil_all(one: CleanSet, truth: Sequence[Uint8Array], condition: str, seed: int) -> Spoilt:
    """The trained masks of a set under a condition."""
    if condition in PSEUDO:
        masks = [grabcut(photo.image(), mask, one.space) for photo, mask in zip(one.trained, truth, strict=True)]
        bad = {i for i, mask in enumerate(masks) if overlap(truth[i], mask, one) < SOUND_IOU}
        return Spoilt(masks, frozenset(bad))
    dealt = deal_kinds(len(truth), int(condition), seed)
    masks = [spoil(dealt[i], i, truth, one, seed) if i in dealt else mask for i, mask in enumerate(truth)]
    return Spoilt(masks, frozenset(i for i in dealt if not np.array_equal(masks[i], truth[i])))


def overlap(truth: Uint8Array, mask: Uint8Array, one: CleanSet) -> float:
    """Mean IoU over the classes of the true mask."""
    ids = foreground_ids(truth, one.space)
    return float(np.mean([((truth == i) & (mask == i)).sum() / ((truth == i) | (mask == i)).sum() for i in ids]))


def measure(scene: Scene, spoilt: Spoilt, tested: Cells, arms: Sequence[str]) -> dict[str, dict[str, float]]:
    """mIoU of every arm, and what it dropped. Arms that keep the same photos are trained once. Whoever is told to drop
    every photo drops none: such an arm is trained on everything.
    """
    found: dict[str, dict[str, float]] = {}
    known: dict[frozenset[int], float] = {}
    everything = range(len(scene.masks))
    for arm in arms:
        kept = choose(arm, scene, spoilt.faulty)
        learnt = kept or frozenset(everything)
        if learnt not in known:
            known[learnt] = train_and_test(scene.cells.of(sorted(learnt)), tested, scene.one, scene.steps, scene.seed)
        found[arm] = {"miou": known[learnt], **account(everything, spoilt.faulty, kept)}
    return found


def account(everything: Collection[int], faulty: Collection[int], kept: Collection[int]) -> dict[str, float]:
    """Share of the faulty that were dropped, and of the sound that were kept."""
    sound = [i for i in everything if i not in faulty]
    shares = {"clean_kept": float(np.mean([i in kept for i in sound]))} if sound else {}
    return shares | ({"faults_caught": float(np.mean([i not in kept for i in faulty]))} if faulty else {})


def by_arm(record: Record, seed: int, sets: Sequence[CleanSet], arms: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metrics of every arm from what is on record for `set.condition`, as `arm.metric`."""
    found: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for arm in arms:
        parts: dict[str, list[float]] = {}
        for one in sets:
            for condition in conditions(one):
                values = record.values[f"{one.name}@{condition}"][str(seed)]
                parts.setdefault(f"miou@{condition}", []).append(values[f"{arm}.miou"])
                found[arm][f"miou@{condition}.{one.name}"] = values[f"{arm}.miou"]
                for name in ("faults_caught", "clean_kept"):
                    if condition not in PSEUDO and f"{arm}.{name}" in values:
                        parts.setdefault(name, []).append(values[f"{arm}.{name}"])
                        found[arm][f"{name}@{condition}.{one.name}"] = values[f"{arm}.{name}"]
        means = {name: float(np.mean(values)) for name, values in parts.items()}
        found[arm] = {**means, **found[arm]}
    return found


def arms_here() -> tuple[str, ...]:
    """All arms that this machine can run; says which it cannot."""
    if importlib.util.find_spec("cleanlab") is None:
        print("arm cleanlab is left out: the library cleanlab is not installed", flush=True)
        return tuple(arm for arm in ARMS if arm != "cleanlab")
    return ARMS


def summary(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The metrics without those by set."""
    return {arm: {name: value for name, value in own.items() if "." not in name} for arm, own in metrics.items()}


@lru_cache(1)
def _sets(options: Options) -> dict[str, CleanSet]:
    return {one.name: one for one in load_clean_sets(options)}


@lru_cache(1)
def _frozen() -> FrozenFeatures:
    return FrozenFeatures(Scene.judge_options())


def work_folder(options: Options) -> Path:
    """Where features and scores are kept."""
    return options.json_path.with_name(options.json_path.name + ".work")


def measure_condition(options: Options, arms: Sequence[str], name: str, condition: str, seed: int) -> Found:
    """All arms on one set under one condition. On one thread: sets are measured side by side."""
    torch.set_num_threads(1)
    one, folder = _sets(options)[name], work_folder(options)
    cells = Cells.load(folder / f"{name}-trained", one.trained, _frozen())
    tested = Cells.load(folder / f"{name}-tested", one.tested, _frozen())
    spoilt = spoil_all(one, cells.masks, condition, seed)
    scene = Scene.of(one, cells, spoilt.masks, options.budget, seed, folder)
    return measure(scene, spoilt, tested, arms)


def side_by_side(
    pool: Executor, left: Mapping[str, Sequence[tuple[str, int]]], task: Callable[[str, str, int], Found]
) -> Iterator[tuple[str, str, int, Found]]:
    """What `task` says of each set, condition and seed, as it comes. Of a set one condition at a time: its scores are
    kept in one file.
    """
    turns = {name: iter(own) for name, own in left.items()}
    waiting: dict[Future[Found], tuple[str, str, int]] = {}

    def go_on(name: str) -> None:
        if (following := next(turns[name], None)) is not None:
            waiting[pool.submit(task, name, *following)] = (name, *following)

    for name in turns:
        go_on(name)
    while waiting:
        for done in wait(waiting, return_when=FIRST_COMPLETED).done:
            what = waiting.pop(done)
            go_on(what[0])
            yield *what, done.result()


def run(options: Options) -> dict[str, object]:
    """All sets, conditions and arms of all seeds."""
    record, arms, sets = Record.open(options), arms_here(), _sets(options)
    left = {
        one.name: [(c, s) for s in options.seeds for c in conditions(one) if not record.has(f"{one.name}@{c}", s)]
        for one in sets.values()
    }
    with ProcessPoolExecutor(min(len(sets), os.cpu_count() or 1), get_context("spawn")) as pool:
        task = partial(measure_condition, options, arms)
        for name, condition, seed, found in side_by_side(pool, left, task):
            flat = {f"{arm}.{metric}": value for arm, own in found.items() for metric, value in own.items()}
            record.add(f"{name}@{condition}", seed, flat)
            words = ", ".join(f"{arm} {own['miou']:.1f}" for arm, own in found.items())
            print(f"{name}@{condition} seed {seed}: {words}", flush=True)
    for seed in options.seeds:
        for arm, metrics in by_arm(record, seed, list(sets.values()), arms).items():
            record.add(arm, seed, metrics)
    for name in [name for name in record.values if name not in ARMS]:
        del record.values[name]
    return record.finish()


if __name__ == "__main__":
    run(parse_options("clean_and_train", __doc__, has_dev=True))
