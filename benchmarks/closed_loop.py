"""Does selection pay? Pairs are drawn by the starter generator and scored; the same segmenter is trained, with the same
schedule and number of steps, on eight choices of them, and tested on fresh renders that have true masks.

Arms: `all` N pairs; `sds_gate`, what the gates of configs/starter-generator.yaml leave, on scores corrected by scene
and style (`select.strata`), however many that is; halves of each class and style, all taken by the product's own
selection (`curation.select`), which ranks by
    random_half  chance
    pcs_half     the image score
    asf_half     the annotation score
    sds_half     the annotation score, after the quarter with the lowest image scores of each class went
    cross_fit_half  agreement with a segmenter that was fitted to the other folds of the pairs (scorer `cross_fit`)
    oracle_half  mask quality, judged by a segmenter of objects that was trained on real renders (IoU with the masks of
                 the classes asked for)
A style is what the first words of a prompt ask for. The starter generator knows three, and draws some better than
others: a half by score alone would hold fewer styles of a class than a half by chance, and so teach less. A pair of two
classes stays if either half takes it.
Three settings of the generator fail at three rates: as configured, with few steps, with few steps and strong guidance.
A pair counts as faulty if the judge does not see the class asked for, or sees another mask (IoU below 0.5). Metrics of
the settings, by rising rate: `miou@10`, `miou@25`, `miou@40`, and the rates themselves as `faulty@10` and so on, in per
cent: the settings give what they give. Metrics without a rate are of the setting as configured:
`miou` over fresh renders, half in the three known styles and half in a style that nothing here has seen;
`miou@known`, `miou@unseen` over each half; `n` pairs; what the judge says of them: `quality`, mean IoU of their masks
with its own, and `seen`, share of those with one class in which it sees that class; `scene_spread`, standard deviation
over the scenes asked for of the share of pairs that was taken: 0 = every scene alike.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Options, Record, parse_options
from benchmarks.judge import iou, train_judge, verdicts
from benchmarks.loop_arms import ARMS, Pair, choose, cross_fit_scores, faulty_share, opinion, scene_spread
from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    Reason,
    decode_image,
    decode_mask,
    iter_rows,
    list_shards,
    load_label_space,
    write_shard,
)
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import run
from maskmill.pipelines.stages.select import read_scores
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.starter.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_scene
from maskmill.trainers.engine import DataConfig, SegmentationMetrics
from maskmill.trainers.registry import load_artifact

VOC = load_label_space("voc")
TEST_BATCH = 16


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    per_class: int
    steps: int
    tested: int  # renders, half of them in the unseen style
    judge_steps: int


SIZES = {"small": Size(18, 450, 240, 1200), "full": Size(60, 900, 600, 2000)}
RATES = (10, 25, 40)  # per cent of faulty pairs that the settings stand for, least first
SETTINGS: dict[str, dict[str, Any]] = {
    "as_configured": {},
    "few_steps": {"generate.generator.steps": 5},
    "strong_guidance": {"generate.generator.steps": 5, "generate.generator.guidance": 9.0},
}


def make_pairs(folder: Path, size: Size, seed: int, setting: str = "as_configured") -> RunConfig:
    """The run of `starter-generator` up to the scores, on so many pairs of each class, one class a pair: so all halves
    have the same size.
    """
    changes = {"run_dir": str(folder), "seed": seed, "generate.per_class": size.per_class, "downstream": None}
    changes |= SETTINGS[setting]
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


def write_choice(path: Path, pairs: Sequence[Pair], chosen: set[str]) -> None:
    """A DECISION shard of the choice."""
    rows: list[dict[str, object]] = [
        {
            "sample_id": p.sample_id,
            "stage": "closed_loop",
            "kept": p.sample_id in chosen,
            "reason": str(Reason.KEPT if p.sample_id in chosen else Reason.BELOW_QUOTA),
        }
        for p in pairs
    ]
    write_shard(str(path), DECISION.table(rows), DECISION, stage="closed_loop", fingerprint="")


def train_on(folder: Path, samples: str, decisions: Path, steps: int, seed: int) -> str:
    """Train the supervised segmenter on a choice; returns the artifact."""
    settings = {
        **load_run_config("starter-generator").model_dump()["downstream"]["settings"],
        "steps": steps,
        "seed": seed,
        "runtime": {"progress": False, "threads": 1},
    }
    data = DataConfig(samples=(samples,), decisions=str(decisions))
    return train(TrainConfig(data=data, settings=settings), str(folder / "run"), str(folder / "artifact"))


def test_metrics(artifact: str, size: Size, seed: int) -> dict[str, float]:
    """`miou` over both halves of the fresh renders, `miou@known` and `miou@unseen`."""
    predictor = load_artifact(artifact)
    whole, found = SegmentationMetrics(VOC), {}
    for name, styles in (("miou@known", KNOWN_STYLES), ("miou@unseen", UNSEEN_STYLES)):
        part = SegmentationMetrics(VOC)
        config = SceneConfig(styles=styles, max_objects=2, min_length=0.5, max_length=0.95, seed=50_000 + seed)
        for start in range(0, size.tested // 2, TEST_BATCH):
            scenes = [render_scene(config, i) for i in range(start, min(start + TEST_BATCH, size.tested // 2))]
            for scene, prediction in zip(scenes, predictor.predict([s.image for s in scenes]), strict=True):
                part.update(prediction.labels, scene.mask)
                whole.update(prediction.labels, scene.mask)
        found[name] = 100 * float(part.compute()["miou"])
    return {"miou": 100 * float(whole.compute()["miou"]), **found}


def learn_and_test(folder: Path, samples: str, size: Size, seed: int) -> dict[str, float]:
    """One arm of one seed, its choice in `folder`/decisions.parquet: train, then test. On one thread: arms are learnt
    side by side.
    """
    torch.set_num_threads(1)
    return test_metrics(train_on(folder, samples, folder / "decisions.parquet", size.steps, seed), size, seed)


def main(options: Options) -> None:
    """All arms of all settings and seeds."""
    size, record = SIZES[options.budget], Record.open(options)
    work = options.json_path.with_name(options.json_path.name + f".work-{options.budget}")
    work.mkdir(parents=True, exist_ok=True)
    judge = train_judge(size.judge_steps, work / "judge.pt")
    with ProcessPoolExecutor(min(len(ARMS), os.cpu_count() or 1), get_context("spawn")) as pool:
        for seed in options.seeds:
            for setting in SETTINGS:
                _setting(record, pool, judge, work, size, seed, setting)
            for arm in ARMS:
                record.add(arm, seed, by_rate({s: record.values[f"{arm}~{s}"][str(seed)] for s in SETTINGS}))
    for name in [name for name in record.values if "~" in name]:
        del record.values[name]
    record.finish()
    shutil.rmtree(work)


def _setting(
    record: Record, pool: ProcessPoolExecutor, judge: Any, work: Path, size: Size, seed: int, setting: str
) -> None:
    """All arms of one setting and seed that are not on record."""
    left = [arm for arm in ARMS if not record.has(f"{arm}~{setting}", seed)]
    if not left:
        return
    config = make_pairs(work / f"pairs-{setting}-{seed}", size, seed, setting)
    pairs = read_pairs(config.run_dir, judge)
    scores = read_scores(list_shards(f"{config.run_dir}/scores"))
    crossed = cross_fit_scores(config.run_dir, VOC, seed) if "cross_fit_half" in left else scores
    print(f"seed {seed}, {setting}: {len(pairs)} pairs, by the judge {opinion(pairs)}", flush=True)
    waiting: dict[Future[dict[str, float]], tuple[str, dict[str, float]]] = {}
    for arm in left:
        folder = work / f"{arm}-{setting}-{seed}"
        chosen = choose(arm, crossed if arm == "cross_fit_half" else scores, pairs, seed)
        write_choice(folder / "decisions.parquet", pairs, chosen)
        task = pool.submit(learn_and_test, folder, f"{config.run_dir}/samples", size, seed)
        taken = [p for p in pairs if p.sample_id in chosen]
        more = {"scene_spread": scene_spread(pairs, chosen), "faulty": faulty_share(pairs)}
        waiting[task] = (arm, {**opinion(taken), **more})
    for task in as_completed(waiting):
        (arm, of_pairs), metrics = waiting[task], task.result()
        record.add(f"{arm}~{setting}", seed, {**metrics, **of_pairs})
        print(f"  {arm}: " + ", ".join(f"{k} {v:.2f}" for k, v in metrics.items()), flush=True)


if __name__ == "__main__":
    main(parse_options("closed_loop", __doc__, needs_data=False))
