"""Does selection pay? Pairs are drawn by the starter generator and scored; the same segmenter is trained, with the same
schedule and number of steps, on eight choices of them, and tested on fresh renders that have true masks.

Arms: `all` N pairs; `sds_gate`, what the gates of configs/starter-generator.yaml leave, on scores corrected by scene
and style (`select.strata`), however many that is; halves of each class and style, all taken by the product's own
selection (`curation.select`), which ranks by
    random_half  chance, drawn three times: its metrics are means over the draws
    pcs_half     the image score
    asf_half     the annotation score
    sds_half     the annotation score, after the quarter with the lowest image scores of each class went
    cross_fit_half  agreement with a segmenter that was fitted to the other folds of the pairs (scorer `cross_fit`)
    oracle_half  mask quality, judged by a segmenter of objects that was trained on real renders (IoU with the masks of
                 the classes asked for)
A style is what the first words of a prompt ask for. The starter generator knows three, and draws some better than
others: a half by score alone would hold fewer styles of a class than a half by chance, and so teach less. A pair of two
classes stays if either half takes it.
Three settings of the generator fail at three rates: as configured, with 5 steps in place of 20, with 3. Pairs of few
steps are drawn twice as many: they cost half as much, and whoever saves steps does it to have more.
A pair counts as faulty if the judge does not see the class asked for, or sees another mask (IoU below 0.5). Metrics of
the settings, by rising rate: `miou@10`, `miou@25`, `miou@40`, and the rates themselves as `faulty@10` and so on, in per
cent: the settings give what they give. Metrics without a rate are of the setting as configured:
`miou` over fresh renders, half in the three known styles and half in a style that nothing here has seen;
`miou@known`, `miou@unseen` over each half; `n` pairs; what the judge says of them: `quality`, mean IoU of their masks
with its own, and `seen`, share of those with one class in which it sees that class; `scene_spread`, standard deviation
over the scenes asked for of the share of pairs that was taken: 0 = every scene alike.

The segmenter is that of `clean_and_train`: a small network over cells of a frozen ImageNet encoder, whose mIoU stays
from 200 steps on (200 to 3,000: within 0.3), trained twice on every choice, as its start and its order move mIoU by
0.3. Scorer `cross_fit` reads the same features. Pairs and features are kept beside the JSON file.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.clean_learn import Cells, KnownFeatures, Segmenter, kept_features, train
from benchmarks.common import Options, Record, parse_options
from benchmarks.judge import iou, train_judge, verdicts
from benchmarks.loop_arms import ARMS, Pair, choose, cross_fit_scores, draws_of, faulty_share, opinion, scene_spread
from benchmarks.sds_keep import mean_of
from maskmill.curation.cross_fit import CrossFitOptions
from maskmill.curation.cross_fit.features import FrozenFeatures
from maskmill.data_contracts import (
    SAMPLE,
    Uint8Array,
    decode_image,
    decode_mask,
    iter_rows,
    list_shards,
    load_label_space,
)
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import run
from maskmill.pipelines.stages.select import read_scores
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_scene
from maskmill.trainers.engine import SegmentationMetrics

VOC = load_label_space("voc")
IDS = tuple(sorted({0, *VOC.ids}))
TRAININGS = 2  # of every choice; their mean is its mIoU


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    per_class: int
    steps: int  # of the segmenter
    tested: int  # renders, half of them in the unseen style
    judge_steps: int


SIZES = {"small": Size(12, 200, 240, 1200), "full": Size(24, 200, 600, 1200)}
RATES = (10, 25, 40)  # per cent of faulty pairs that the settings stand for, least first


@dataclass(frozen=True)
class Setting:
    """Options of the run, and how many times a budget's pairs are drawn."""

    changes: Mapping[str, Any]
    times: int = 1


SETTINGS = {
    "as_configured": Setting({}),
    "few_steps": Setting({"generate.generator.steps": 5}, 2),
    "fewer_steps": Setting({"generate.generator.steps": 3}, 2),
}


def make_pairs(folder: Path, size: Size, seed: int, setting: str = "as_configured") -> RunConfig:
    """The run of `starter-generator` up to the scores, on so many pairs of each class, one class a pair: so all halves
    have the same size.
    """
    per_class = size.per_class * SETTINGS[setting].times
    changes = {"run_dir": str(folder), "seed": seed, "generate.per_class": per_class, "downstream": None}
    changes |= SETTINGS[setting].changes
    config = load_run_config("starter-generator", {**changes, "generate.prompts.classes_per_prompt": [1], "export": []})
    run(config, until="select")
    return config


def read_pairs(run_dir: str, judge: Any) -> list[Pair]:
    """All pairs of a run with the judge's opinion of them."""
    pairs = []
    for path in list_shards(f"{run_dir}/samples"):
        rows: list[dict[str, Any]] = list(iter_rows(path, SAMPLE))
        images = np.stack([decode_image(row["image"]["bytes"], row["sample_id"]) for row in rows])
        for row, label, objects in zip(rows, *verdicts(judge, images), strict=True):
            mask = decode_mask(row["mask"]["bytes"], row["sample_id"])
            asked = tuple(sorted(row["prompt_class_ids"] or row["class_ids"]))
            seen = bool(label == asked[0]) if len(asked) == 1 else None
            caption = row["provenance"]["prompt"].split("; ")[0]  # "a drawing of a cow, grass"
            style, scene = caption.split(" of ")[0], caption.split(", ")[-1]
            pairs.append(Pair(row["sample_id"], asked, iou(mask, objects, asked), seen, style, scene))
    return pairs


def by_rate(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of one arm from those of its settings: those of the setting as configured, and of all by rising rate."""
    ranked = sorted(found.values(), key=lambda own: own["faulty"])
    plain = {name: value for name, value in found["as_configured"].items() if name != "faulty"}
    for rate, own in zip(RATES, ranked, strict=True):
        plain |= {f"miou@{rate}": own["miou"], f"faulty@{rate}": own["faulty"]}
    return plain


def read_cells(run_dir: str, frozen: FrozenFeatures, file: Path) -> tuple[list[Uint8Array], Cells]:
    """Images of all pairs of a run, and their cells and masks; features are made once and kept in `file`."""
    shards = list_shards(f"{run_dir}/samples")
    rows: list[dict[str, Any]] = [row for path in shards for row in iter_rows(path, SAMPLE)]
    images = [decode_image(row["image"]["bytes"], row["sample_id"]) for row in rows]
    masks = [decode_mask(row["mask"]["bytes"], row["sample_id"]) for row in rows]
    return images, Cells(kept_features(file, images, frozen), masks)


def render_tests(size: Size, seed: int, frozen: FrozenFeatures, folder: Path) -> dict[str, Cells]:
    """Fresh renders in the known styles and in the unseen one, by the name of their metric."""
    found = {}
    for name, styles in (("miou@known", KNOWN_STYLES), ("miou@unseen", UNSEEN_STYLES)):
        config = SceneConfig(styles=styles, max_objects=2, min_length=0.5, max_length=0.95, seed=50_000 + seed)
        scenes = [render_scene(config, i) for i in range(size.tested // 2)]
        features = kept_features(folder / f"{name}-{seed}.npy", [s.image for s in scenes], frozen)
        found[name] = Cells(features, [s.mask for s in scenes])
    return found


def test_metrics(segmenter: Segmenter, tested: Mapping[str, Cells]) -> dict[str, float]:
    """`miou` over all fresh renders, and over each part."""
    whole, found = SegmentationMetrics(VOC), {}
    for name, cells in tested.items():
        part = SegmentationMetrics(VOC)
        for features, mask in zip(cells.features, cells.masks, strict=True):
            prediction = segmenter.predict(features, (mask.shape[0], mask.shape[1]))
            part.update(prediction, mask)
            whole.update(prediction, mask)
        found[name] = 100 * float(part.compute()["miou"])
    return {"miou": 100 * float(whole.compute()["miou"]), **found}


def learn_and_test(
    cells: Cells, places: Sequence[int], tested: Mapping[str, Cells], steps: int, seed: int
) -> dict[str, float]:
    """One choice of one seed: means over its trainings."""
    some = cells.of(places)
    return mean_of([test_metrics(train(some, IDS, steps, seed + 1000 * i), tested) for i in range(TRAININGS)])


def draw(work: Path, size: Size, seed: int, setting: str) -> None:
    """Pairs of a setting, their scores and features, all kept in `work`. On one thread: settings are drawn side by
    side.
    """
    torch.set_num_threads(1)
    config = make_pairs(work / f"pairs-{setting}-{seed}", size, seed, setting)
    read_cells(config.run_dir, FrozenFeatures(CrossFitOptions()), work / f"cells-{setting}-{seed}.npy")


def measure(work: Path, size: Size, seed: int, setting: str) -> dict[str, dict[str, float]]:
    """All arms of a setting that was drawn, with a judge that was trained. On one thread."""
    torch.set_num_threads(1)
    run_dir = make_pairs(work / f"pairs-{setting}-{seed}", size, seed, setting).run_dir
    frozen = FrozenFeatures(CrossFitOptions())
    tested = render_tests(size, seed, frozen, work)
    images, cells = read_cells(run_dir, frozen, work / f"cells-{setting}-{seed}.npy")
    pairs = read_pairs(run_dir, train_judge(size.judge_steps, work / "judge.pt"))
    crossed = cross_fit_scores(run_dir, VOC, seed, KnownFeatures.of_images(CrossFitOptions(), images, cells.features))
    scores = read_scores(list_shards(f"{run_dir}/scores"))
    place, found = {p.sample_id: i for i, p in enumerate(pairs)}, {}
    for arm in ARMS:
        drawn = []
        for turn in range(draws_of(arm)):
            chosen = choose(arm, crossed if arm == "cross_fit_half" else scores, pairs, seed + 1000 * turn)
            taken = [p for p in pairs if p.sample_id in chosen]
            metrics = learn_and_test(cells, [place[p.sample_id] for p in taken], tested, size.steps, seed)
            drawn.append({**metrics, **opinion(taken), "scene_spread": scene_spread(pairs, chosen)})
        found[arm] = {**mean_of(drawn), "faulty": faulty_share(pairs)}
    return found


def _judge(steps: int, path: Path) -> None:
    torch.set_num_threads(1)
    train_judge(steps, path)


def main(options: Options) -> None:
    """All arms of all settings and seeds. Settings are drawn side by side, and while the judge is trained."""
    size, record = SIZES[options.budget], Record.open(options)
    work = options.json_path.with_name(options.json_path.name + f".work-{options.budget}")
    work.mkdir(parents=True, exist_ok=True)
    left = [(s, name) for s in options.seeds for name in SETTINGS if not record.has(f"all~{name}", s)]
    with ProcessPoolExecutor(os.cpu_count() or 1, get_context("spawn")) as pool:
        judged = pool.submit(_judge, size.judge_steps, work / "judge.pt")
        drawn = {pool.submit(draw, work, size, *one): one for one in left}
        measured: dict[Future[Any], tuple[int, str]] = {}
        while drawn or measured:
            tasks: list[Future[Any]] = [*drawn, *measured]
            for task in wait(tasks, return_when=FIRST_COMPLETED).done:
                if task in measured:
                    _keep(record, *measured.pop(task), task.result())
                    continue
                task.result()
                judged.result()
                one = drawn.pop(task)
                print(f"seed {one[0]}, {one[1]}: drawn", flush=True)
                measured[pool.submit(measure, work, size, *one)] = one
    for seed in options.seeds:
        for arm in ARMS:
            record.add(arm, seed, by_rate({s: record.values[f"{arm}~{s}"][str(seed)] for s in SETTINGS}))
    for name in [name for name in record.values if "~" in name]:
        del record.values[name]
    record.finish()
    shutil.rmtree(work)


def _keep(record: Record, seed: int, setting: str, found: Mapping[str, Mapping[str, float]]) -> None:
    print(f"seed {seed}, {setting}: {found['all']['faulty']:.1f} % of the pairs are faulty", flush=True)
    for arm, metrics in reversed(list(found.items())):  # `all` last: where it is on record, all are
        record.add(f"{arm}~{setting}", seed, metrics)
    for arm, metrics in found.items():
        print(f"  {arm}: " + ", ".join(f"{k} {v:.2f}" for k, v in metrics.items()), flush=True)


if __name__ == "__main__":
    main(parse_options("closed_loop", __doc__, needs_data=False))
