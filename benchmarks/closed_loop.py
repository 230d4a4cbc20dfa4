"""Does selection pay? Pairs are drawn by the starter generator and scored; the same segmenter is trained, with the same
schedule and number of steps, on six choices of them, and tested on fresh renders that have true masks.

Arms: `all` N pairs; halves of each class: `random_half`; `pcs_half` the best by the image score; `asf_half` the best by
the annotation score; `sds_half` the worst quarter by the image score dropped first, then the worst third of the rest by
the annotation score; `oracle_half` the best by mask quality, judged by a segmenter of objects that was trained on real
renders (IoU with the masks of the classes asked for).
Metrics: `miou` over fresh renders, half in the three known styles and half in a style that nothing here has seen;
`miou@unseen` over that half; `n` pairs; `quality`: mean IoU of the chosen masks with the judge's.
"""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Record, parse_options
from benchmarks.starter_generator import iou, train_judge, verdicts
from data_contracts import (
    DECISION,
    SAMPLE,
    SCORE,
    Reason,
    decode_image,
    decode_mask,
    iter_rows,
    list_shards,
    load_label_space,
    read_shard,
    sample_seed,
    write_shard,
)
from generators.drawn import KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_scene
from pipelines.config import RunConfig, load_run_config
from pipelines.run import run
from pipelines.train import TrainConfig, train
from trainers.engine import DataConfig, SegmentationMetrics
from trainers.registry import load_artifact

VOC = load_label_space("voc")
TEST_BATCH = 16


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    per_class: int
    steps: int
    tested: int  # renders, half of them in the unseen style
    judge_steps: int


SIZES = {"small": Size(20, 160, 160, 600), "full": Size(100, 800, 600, 2000)}
ARMS = ("all", "random_half", "pcs_half", "asf_half", "sds_half", "oracle_half")


@dataclass(frozen=True)
class Pair:
    """What is known of one generated pair. `quality`: IoU of its mask with what the judge sees."""

    sample_id: str
    stratum: str
    image_score: float
    asf: float
    quality: float


def make_pairs(folder: Path, size: Size, seed: int) -> RunConfig:
    """The run of `starter-generator` up to the scores, on so many pairs of each class."""
    changes = {"run_dir": str(folder), "seed": seed, "generate.per_class": size.per_class, "downstream": None}
    config = load_run_config("starter-generator", {**changes, "export": []})
    run(config, until="select")
    return config


def read_pairs(run_dir: str, judge: Any) -> list[Pair]:
    """All scored pairs of a run with the judge's opinion of their masks."""
    scores = {
        row["sample_id"]: row
        for path in list_shards(f"{run_dir}/scores")
        for row in read_shard(path, SCORE).to_pylist()
    }
    pairs = []
    for path in list_shards(f"{run_dir}/samples"):
        rows: list[dict[str, Any]] = list(iter_rows(path, SAMPLE))
        images = np.stack([decode_image(row["image"]["bytes"], row["sample_id"]) for row in rows])
        _, seen = verdicts(judge, images)
        for row, truth in zip(rows, seen, strict=True):
            mask = decode_mask(row["mask"]["bytes"], row["sample_id"])
            asked = sorted(row["prompt_class_ids"] or row["class_ids"])
            quality = iou(mask, truth, asked)
            score = scores[row["sample_id"]]
            found = (float(score["image_score"] or 0.0), float(score["asf"] or 0.0), quality)
            pairs.append(Pair(row["sample_id"], str(asked), *found))
    return pairs


def best(pairs: list[Pair], value: Mapping[str, float], count: int) -> list[Pair]:
    """The `count` pairs of the highest value; ties by id."""
    return sorted(pairs, key=lambda p: (-value[p.sample_id], p.sample_id))[:count]


def choose(arm: str, pairs: list[Pair], seed: int) -> set[str]:
    """Ids of an arm. Halves are taken within each set of classes asked for, so that no arm changes the balance."""
    strata: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        strata[pair.stratum].append(pair)
    values = {
        "random_half": {p.sample_id: float(sample_seed(seed, p.sample_id, "half")) for p in pairs},
        "pcs_half": {p.sample_id: p.image_score for p in pairs},
        "asf_half": {p.sample_id: p.asf for p in pairs},
        "oracle_half": {p.sample_id: p.quality for p in pairs},
    }
    chosen: set[str] = set()
    for members in strata.values():
        half = (len(members) + 1) // 2
        if arm == "all":
            found = members
        elif arm == "sds_half":
            sound = best(members, values["pcs_half"], max(half, round(0.75 * len(members))))
            found = best(sound, values["asf_half"], half)
        else:
            found = best(members, values[arm], half)
        chosen |= {p.sample_id for p in found}
    return chosen


def write_choice(path: Path, pairs: list[Pair], chosen: set[str]) -> None:
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
        "runtime": {"progress": False},
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


def main(options: Options) -> None:
    """All arms of all seeds."""
    size, record = SIZES[options.budget], Record.open(options)
    work = options.json_path.with_name(options.json_path.name + f".work-{options.budget}")
    work.mkdir(parents=True, exist_ok=True)
    judge = train_judge(size.judge_steps, work / "judge.pt")
    for seed in options.seeds:
        if all(record.has(arm, seed) for arm in ARMS):
            continue
        config = make_pairs(work / f"pairs-{seed}", size, seed)
        pairs = read_pairs(config.run_dir, judge)
        print(
            f"seed {seed}: {len(pairs)} pairs, mean mask quality {np.mean([p.quality for p in pairs]):.3f}", flush=True
        )
        for arm in ARMS:
            if record.has(arm, seed):
                continue
            folder = work / f"{arm}-{seed}"
            chosen = choose(arm, pairs, seed)
            write_choice(folder / "decisions.parquet", pairs, chosen)
            artifact = train_on(folder, f"{config.run_dir}/samples", folder / "decisions.parquet", size.steps, seed)
            metrics = test_metrics(artifact, size, seed)
            quality = float(np.mean([p.quality for p in pairs if p.sample_id in chosen]))
            record.add(arm, seed, {**metrics, "n": len(chosen), "quality": quality})
            print(f"  {arm}: " + ", ".join(f"{k} {v:.2f}" for k, v in metrics.items()), flush=True)
    record.finish()
    shutil.rmtree(work)


if __name__ == "__main__":
    main(parse_options("closed_loop", __doc__, needs_data=False))
