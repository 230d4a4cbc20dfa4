"""Choices of the few-shot trainer, tried on development parts alone: what may be better than the papers'.

Learnt from photos of the training part and scenes in two known styles, measured on photos of the development part and
scenes in the third known style; nothing that `benchmarks.few_shot` tests is opened. Seed = fold (modulo 4).
Priors, metric `ap` (mean over 1-shot episodes of the average precision over pixels): `contrast` (ours), `masked` (best
match of the cut-out object, averaged over all blocks), `product` (of both), `vtp+pir`.
Networks, paired starts: `base` (plain prior), `base+contrast` (contrast and text), `base+product` (the product as one
more channel), `base+ours` (that times the root of the text, the default); `scl` (hard split), `scl+soft`,
`scl+soft+late` (support losses in the last third), `scl+soft+detached` (support losses teach their own merge alone).
Metrics: `miou_1shot`; `gain_1shot` over `base`, and `sees_1shot`, the smallest gain that so many starts can tell from
none. All also by world, `@ccp` and `@drawn`.
"""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.common import Options, Record, parse_options, part_of
from benchmarks.few_shot import FOLDS, NO_PRODUCT, settings_of, smallest_seen, tested_episodes, trained_scores
from benchmarks.few_shot_worlds import Size, World, drawn_world, photo_world, read_photos
from maskmill.starter.drawn import KNOWN_STYLES
from maskmill.trainers.engine import Samples
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.episodes import binary_mask
from maskmill.trainers.few_shot.metrics import average_precision
from maskmill.trainers.few_shot.train import featurizer_of

BLOCKS = 4  # of the starter CLIP
OURS = {"prior": "pi_clip", "scl": False}
HARD = {"prior": "plain", "scl": True, "split": "hard", "support_from": 0.0}
SOFT = {**HARD, "split": "soft"}
NETWORKS: dict[str, dict[str, Any]] = {
    "base": {"prior": "plain", "scl": False},
    "base+contrast": {**OURS, "priors": NO_PRODUCT},
    "base+product": {**OURS, "priors": {"product_blocks": BLOCKS, "product_text": False}},
    "base+ours": OURS,
    "scl": HARD,
    "scl+soft": SOFT,
    "scl+soft+late": {**SOFT, "support_from": 2 / 3},
    "scl+soft+detached": {**SOFT, "support_detached": True},
}
PRIORS = ("contrast", "masked", "product", "vtp+pir")
SIZES = {
    "small": Size(240, 100, 150, 100, steps=200, episodes={1: 120}, starts=2),
    "full": Size(1500, 400, 220, 230, steps=1200, episodes={1: 500}),
}


def worlds_of(options: Options, size: Size, folder: Path) -> list[World]:
    """Development worlds: photos by their part, scenes by their style."""
    photos = read_photos(options.data)
    learnt, tested = ([p for p in photos if part_of(p.key) == part] for part in ("train", "dev"))
    drawn = drawn_world(size, folder, KNOWN_STYLES[:2], KNOWN_STYLES[2:], first=500_000)
    return [world for world in (photo_world(learnt, tested, size, folder), drawn) if world is not None]


def prior_scores(world: World, size: Size, seed: int, fold: int, folder: Path) -> dict[str, float]:
    """Mean average precision of each map over the 1-shot episodes."""
    given = {**settings_of(world, size, seed, fold), **NETWORKS["base+product"]}
    config = Config(**given)
    featurizer, samples = featurizer_of(config, world.space, torch.device("cpu")), Samples.open(world.test, str(folder))
    where = {sample_id: position for position, sample_id in enumerate(samples.ids)}
    values: dict[str, list[float]] = {name: [] for name in PRIORS}
    for episode in tested_episodes(world, samples, size, config, 1):
        query, support = (samples.example(where[i]) for i in (episode.query, episode.supports[0]))
        if query.mask is None or support.mask is None:
            continue
        target = binary_mask(query.mask, episode.class_id)
        seen = featurizer.image(query.image, episode.query)
        shot = featurizer.shot(support.image, binary_mask(support.mask, episode.class_id), episode.supports[0])
        *contrast, product = featurizer.vvp(seen, [shot]).numpy()
        mean = np.mean(contrast, axis=0)
        maps = {
            "contrast": mean,
            "masked": product / np.maximum(mean, 1e-6),
            "product": product,
            "vtp+pir": featurizer.vtp(seen, episode.class_id).float().numpy(),
        }
        for name, map_ in maps.items():
            full = cv2.resize(map_, (target.shape[1], target.shape[0]), interpolation=cv2.INTER_LINEAR)
            values[name].append(average_precision(full, target))
    return {name: float(np.mean(found)) for name, found in values.items()}


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    worlds = worlds_of(options, size, work)
    for seed in (seed for seed in options.seeds if not all(record.has(name, seed) for name in PRIORS)):
        fold = seed % FOLDS
        maps = {world.name: prior_scores(world, size, seed, fold, work / "cache" / world.name) for world in worlds}
        for name in PRIORS:
            by_world = {f"ap@{world}": scores[name] for world, scores in maps.items()}
            _add(record, name, seed, {"ap": float(np.mean(list(by_world.values()))), **by_world})
    for seed in options.seeds:
        for arm in (arm for arm in options.arms if not record.has(arm, seed)):
            found = network_scores(arm, worlds, size, seed, work)
            _add(record, arm, seed, found if arm == "base" else gains(found, record.values["base"][str(seed)]))
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


def network_scores(arm: str, worlds: list[World], size: Size, seed: int, work: Path) -> dict[str, float]:
    """1-shot mIoU by world and start, and means."""
    found: dict[str, float] = {}
    for world in worlds:
        for start in range(size.starts):
            place = work / f"{seed}/{world.name}/{arm}/{start}"
            scores = trained_scores(NETWORKS[arm], world, size, seed, seed % FOLDS, start, place)
            found[f"miou_1shot#{start}@{world.name}"] = scores["miou_1shot"]
            shutil.rmtree(place, ignore_errors=True)
    for world in worlds:
        own = [value for name, value in found.items() if name.endswith(f"@{world.name}")]
        found[f"miou_1shot@{world.name}"] = float(np.mean(own))
    found["miou_1shot"] = float(np.mean([found[f"miou_1shot@{world.name}"] for world in worlds]))
    return found


def gains(own: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """All metrics of an arm with its gains over the `other`, start by start, and what they can see."""
    differ = {name.replace("miou", "gain"): own[name] - other[name] for name in other if name.startswith("miou")}
    return {**own, **{name: value for name, value in differ.items() if "#" not in name}, **smallest_seen(differ)}


def _add(record: Record, arm: str, seed: int, found: dict[str, float]) -> None:
    record.add(arm, seed, found)
    said = {name: round(value, 3) for name, value in found.items() if "#" not in name}
    print(f"seed {seed}: {arm} {said}", flush=True)


if __name__ == "__main__":
    run(parse_options("few_shot_choices", __doc__, arms=tuple(NETWORKS)))
