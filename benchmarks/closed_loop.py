"""Does selection pay? Pairs are drawn by the starter generator and scored; the same segmenter is trained, with the same
schedule and number of steps, on six choices of them, and tested on fresh renders that have true masks.

Arms: `all` N pairs; halves of each class and style, all taken by the product's own selection (`curation.select`),
which ranks by
    random_half  chance
    pcs_half     the image score
    asf_half     the annotation score
    sds_half     the annotation score, after the quarter with the lowest image scores of each class went
    oracle_half  mask quality, judged by a segmenter of objects that was trained on real renders (IoU with the masks of
                 the classes asked for)
A style is what the first words of a prompt ask for. The starter generator knows three, and draws some better than
others: a half by score alone would hold fewer styles of a class than a half by chance, and so teach less. A pair of two
classes stays if either half takes it.
Metrics: `miou` over fresh renders, half in the three known styles and half in a style that nothing here has seen;
`miou@known`, `miou@unseen` over each half; `n` pairs; what the judge says of them: `quality`, mean IoU of their masks
with its own, and `seen`, share of those with one class in which it sees that class; `scene_spread`, standard deviation
over the scenes asked for of the share of pairs that was taken: 0 = every scene alike.
"""

import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.common import Options, Record, parse_options
from benchmarks.starter_generator import iou, train_judge, verdicts
from maskmill.curation.select import SelectConfig, select
from maskmill.data_contracts import (
    DECISION,
    NEIGHBOUR,
    SAMPLE,
    Reason,
    decode_image,
    decode_mask,
    iter_rows,
    list_shards,
    load_label_space,
    sample_seed,
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
ARMS = ("all", "random_half", "pcs_half", "asf_half", "sds_half", "oracle_half")


# What every half has in common: shares of each class, no gates but those of the arm.
HALF: dict[str, Any] = {
    "preset": "faithful",
    "pcs_tau": None,
    "group_by": "class",
    "leaks": "keep",
    "near_duplicates": "keep",
}
SDS: dict[str, Any] = {"image_score_tau": {"method": "quantile", "keep": 0.75}, "calibrate_by": "class"}


@dataclass(frozen=True)
class Pair:
    """What is known of one generated pair. `quality`: IoU of its mask with what the judge sees; `seen`: whether the
    judge sees the one class asked for, None where there are several; `style`, `scene`: how its prompt begins and ends.
    """

    sample_id: str
    asked: tuple[int, ...]
    quality: float
    seen: bool | None
    style: str = ""
    scene: str = ""


def make_pairs(folder: Path, size: Size, seed: int) -> RunConfig:
    """The run of `starter-generator` up to the scores, on so many pairs of each class, one class a pair: so all halves
    have the same size.
    """
    changes = {"run_dir": str(folder), "seed": seed, "generate.per_class": size.per_class, "downstream": None}
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


def ranked_by(scores: pl.DataFrame, pairs: Sequence[Pair], value: Mapping[str, float] | None) -> pl.DataFrame:
    """`scores` in which every pair stands for the classes asked for: by `value`, or by its annotation scores where that
    is None. What scoring gave up on counts as 0.
    """
    by_id = {p.sample_id: p for p in pairs}
    ids = scores["sample_id"].to_list()
    own = dict(zip(ids, scores["per_class"].to_list(), strict=True))
    per_class = []
    for i in ids:
        found = {one["class_id"]: one["iou"] for one in own[i] or []} if value is None else {}
        usual = 0.0 if value is None else value[i]
        per_class.append([{"class_id": c, "iou": found.get(c, usual)} for c in by_id[i].asked])
    kind = scores.schema["per_class"]
    asf = pl.col("asf").fill_null(0.0) if value is None else pl.Series([value[i] for i in ids], dtype=pl.Float32)
    return scores.with_columns(
        pl.Series("per_class", per_class, dtype=kind),
        asf.alias("asf"),
        pl.col("image_score").fill_null(0.0),
        pl.lit(None, dtype=pl.String).alias("reason"),
        pl.lit(None, dtype=pl.Int32).alias("swap_class_id"),
    )


def choose(arm: str, scores: pl.DataFrame, pairs: Sequence[Pair], seed: int) -> set[str]:
    """Ids of an arm."""
    if arm == "all":
        return {p.sample_id for p in pairs}
    value: dict[str, float] | None = None
    if arm == "random_half":
        value = {p.sample_id: sample_seed(seed, p.sample_id, "half") / 2**63 for p in pairs}
    elif arm == "oracle_half":
        value = {p.sample_id: p.quality for p in pairs}
    changes = {"pcs_half": {"rank_by": "image_score"}, "sds_half": SDS}.get(arm, {})
    chosen: set[str] = set()
    for style in sorted({p.style for p in pairs}):
        alike = [p for p in pairs if p.style == style]
        quotas = {c: math.ceil(n / 2) for c, n in Counter(c for p in alike for c in p.asked).items()}
        config = SelectConfig.model_validate({**HALF, **changes, "quotas": quotas})
        own = ranked_by(scores.filter(pl.col("sample_id").is_in([p.sample_id for p in alike])), pairs, value)
        chosen |= set(select(own, pl.DataFrame(NEIGHBOUR.table([])), config).filter("kept")["sample_id"])
    return chosen


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
    """Train the supervised segmenter on a choice; returns the artefact."""
    settings = {
        **load_run_config("starter-generator").model_dump()["downstream"]["settings"],
        "steps": steps,
        "seed": seed,
        "runtime": {"progress": False, "threads": 1},
    }
    data = DataConfig(samples=(samples,), decisions=str(decisions))
    return train(TrainConfig(data=data, settings=settings), str(folder / "run"), str(folder / "artefact"))


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


def opinion(pairs: Sequence[Pair]) -> dict[str, float]:
    """`n`, `quality` and `seen` of a choice."""
    seen = [p.seen for p in pairs if p.seen is not None]
    return {"n": len(pairs), "quality": float(np.mean([p.quality for p in pairs])), "seen": float(np.mean(seen))}


def scene_spread(pairs: Sequence[Pair], chosen: Collection[str]) -> float:
    """Standard deviation over scenes of the share of their pairs that is among `chosen` ids."""
    asked = Counter(p.scene for p in pairs)
    taken = Counter(p.scene for p in pairs if p.sample_id in chosen)
    return float(np.std([taken[scene] / count for scene, count in asked.items()]))


def learn_and_test(folder: Path, samples: str, size: Size, seed: int) -> dict[str, float]:
    """One arm of one seed, its choice in `folder`/decisions.parquet: train, then test. On one thread: arms are learnt
    side by side.
    """
    torch.set_num_threads(1)
    return test_metrics(train_on(folder, samples, folder / "decisions.parquet", size.steps, seed), size, seed)


def main(options: Options) -> None:
    """All arms of all seeds."""
    size, record = SIZES[options.budget], Record.open(options)
    work = options.json_path.with_name(options.json_path.name + f".work-{options.budget}")
    work.mkdir(parents=True, exist_ok=True)
    judge = train_judge(size.judge_steps, work / "judge.pt")
    open_seeds = [seed for seed in options.seeds if not all(record.has(arm, seed) for arm in ARMS)]
    with ProcessPoolExecutor(min(len(ARMS), os.cpu_count() or 1), get_context("spawn")) as pool:
        for seed in open_seeds:
            config = make_pairs(work / f"pairs-{seed}", size, seed)
            pairs = read_pairs(config.run_dir, judge)
            scores = read_scores(list_shards(f"{config.run_dir}/scores"))
            print(f"seed {seed}: {len(pairs)} pairs, by the judge {opinion(pairs)}", flush=True)
            waiting: dict[Future[dict[str, float]], tuple[str, dict[str, float]]] = {}
            for arm in (arm for arm in ARMS if not record.has(arm, seed)):
                folder = work / f"{arm}-{seed}"
                chosen = choose(arm, scores, pairs, seed)
                write_choice(folder / "decisions.parquet", pairs, chosen)
                task = pool.submit(learn_and_test, folder, f"{config.run_dir}/samples", size, seed)
                taken = [p for p in pairs if p.sample_id in chosen]
                waiting[task] = (arm, {**opinion(taken), "scene_spread": scene_spread(pairs, chosen)})
            for task in as_completed(waiting):
                (arm, of_pairs), metrics = waiting[task], task.result()
                record.add(arm, seed, {**metrics, **of_pairs})
                print(f"  {arm}: " + ", ".join(f"{k} {v:.2f}" for k, v in metrics.items()), flush=True)
    record.finish()
    shutil.rmtree(work)


if __name__ == "__main__":
    main(parse_options("closed_loop", __doc__, needs_data=False))
