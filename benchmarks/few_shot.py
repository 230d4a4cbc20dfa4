"""A new class from one or five labelled images: what priors and self-guidance add to a small few-shot network.

Arms `base` (PFENet-like, plain cosine prior), `base+pi_clip` (the paper's priors as in `vvp_paper`, prompts without the
leak), `base+ours` (our priors), `base+scl` (the released losses), `base+scl_ours`: trained on the other classes of a
fold (fold = seed modulo 4; the full budget takes all folds), tested on its held-out classes. Metrics: `miou_1shot`,
`fbiou_1shot`, `miou_5shot`, `fbiou_5shot`; for the arms with SCL also `miou_5shot_mean`: the five predictions averaged
instead of weighed, and `cross_gain`, what weighing adds to that. All arms of a seed see the same training and tested
episodes and begin, three times over, with the same weights wherever they share any (`#0`, `#1`, `#2` are the starts).
`gain_1shot` and `gain_5shot` are an arm's mIoU less that of `base`, start by start; `sees_1shot` and `sees_5shot` the
smallest gain that so many starts can tell from none: twice the standard error of the gains. Why SCL helps or not, on
its 1-shot episodes: `support_first` and `support_second`, the object's IoU of a support segmented by its own vector and
by both; `missed`, the share of its object that the auxiliary vector stands for; `miou_1shot_own`, the query's mIoU with
the support's plain vector in both places.
Arms `prior_plain`, `vvp_paper` (masked picture, best cosine), `vvp_ours`, `vtp`, `vtp+pir`, `product` (of `vvp_ours`
and the masked picture's match over all blocks), `product*vtp` (that times the root of `vtp+pir`): training-free maps of
the same 1-shot episodes; metric `ap`, the average precision over an episode's pixels, mean over episodes. Prompts are
target-only throughout.
Each metric is the mean of two worlds, which follow as `@ccp` (street photos, held-out garments; tested on stems that
nothing was tuned on) and `@drawn` (drawn scenes, held-out classes, tested in a style that training never saw).
"""

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Options, Record, parse_options
from benchmarks.few_shot_worlds import Size, World, ccp_world, drawn_world
from maskmill.data_contracts import Uint8Array
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import Samples, evaluating
from maskmill.trainers.few_shot.base import PyramidDecoder, masked_mean
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.episodes import Episode, binary_mask
from maskmill.trainers.few_shot.features import Featurizer
from maskmill.trainers.few_shot.metrics import EpisodeMetrics, average_precision
from maskmill.trainers.few_shot.predict import FewShotPredictor, Supports
from maskmill.trainers.few_shot.priors import product_with_text
from maskmill.trainers.few_shot.scl import guide, mask_iou, second_look
from maskmill.trainers.few_shot.train import featurizer_of, test_episodes
from maskmill.trainers.registry import load_artifact

#: PI-CLIP's priors as published, on the starter CLIP, without the leak of its prompts.
PAPER = {
    "match_normalisation": "imagenet",
    "mask_image": True,
    "contrast": False,
    "centre": False,
    "neighbours": 1,
    "cam_layer": "norm",
    "background_words": False,
    "edge_fix": False,
    "product_blocks": 0,
    "product_text": False,
}
NO_PRODUCT = {"product_blocks": 0, "product_text": False}
RELEASED_SCL = {"support_weight": 1.0, "inter_scale_source": "initial", "split": "hard", "support_from": 0.0}
NETWORKS: dict[str, dict[str, Any]] = {
    "base": {"prior": "plain", "scl": False},
    "base+pi_clip": {"prior": "pi_clip", "scl": False, "priors": PAPER},
    "base+ours": {"prior": "pi_clip", "scl": False},
    "base+scl": {"prior": "plain", "scl": True, **RELEASED_SCL},
    "base+scl_ours": {"prior": "plain", "scl": True},
}
#: What each arm adds to.
WITHOUT = {arm: "base" for arm in NETWORKS if arm != "base"}
PRIORS = ("prior_plain", "vvp_paper", "vvp_ours", "vtp", "vtp+pir", "product", "product*vtp")
BLOCKS = 4  # of the starter CLIP
PAIRED = ("miou_1shot", "miou_5shot")
FOLDS = 4
SIZES = {
    "small": Size(280, 133, 220, 130, steps=120, episodes={1: 150, 5: 40}),
    "full": Size(1500, 400, 600, 400, steps=1200, episodes={1: 500, 5: 300}),
}


def settings_of(world: World, size: Size, seed: int, fold: int) -> dict[str, Any]:
    """What all networks share."""
    return {
        "seed": seed,
        "steps": size.steps,
        "batch": 16,
        "width": 48,
        "target_stride": 4,
        "precision": "auto",
        "start": "by_name",
        "episodes": {**world.episodes, "folds": FOLDS, "fold": fold},
        "runtime": {"save_every": 100, "progress": False},
    }


def tested_episodes(world: World, samples: Samples, size: Size, config: Config, shots: int) -> list[Episode]:
    """The same for all arms of a seed."""
    count = size.episodes[shots]
    return test_episodes(samples, world.space, config.episodes, shots, count, config.seed)[0]


def all_starts(world: World, arm: str, size: Size, seed: int, folds: Sequence[int], folder: Path) -> dict[str, float]:
    """Means over starts and folds, and under `METRIC#START` what arms are compared by, start by start."""

    def scores(start: int) -> dict[str, float]:
        places = {fold: folder / f"{seed}/{fold}/{world.name}/{arm}/{start}" for fold in folds}
        return _mean([network_scores(arm, world, size, seed, fold, start, places[fold]) for fold in folds])

    runs = [scores(start) for start in range(size.starts)]
    return _mean(runs) | {f"{name}#{start}": run[name] for start, run in enumerate(runs) for name in PAIRED}


def network_scores(
    arm: str, world: World, size: Size, seed: int, fold: int, start: int, folder: Path
) -> dict[str, float]:
    """Train an arm on a fold's base classes from one start; its metrics on the held-out ones."""
    return trained_scores(NETWORKS[arm], world, size, seed, fold, start, folder)


def trained_scores(
    own: dict[str, Any], world: World, size: Size, seed: int, fold: int, start: int, folder: Path
) -> dict[str, float]:
    """The same of a network with settings of its `own`."""
    settings = {**settings_of(world, size, seed, fold), "start_seed": 1000 * seed + start, **own}
    config = TrainConfig(trainer="few_shot", label_space=world.space, data=world.data, settings=settings)
    artifact = train(config, str(folder / "run"), str(folder / "artifact"))
    predictor, samples = load_artifact(artifact), Samples.open(world.test, str(folder / "cache"))
    found: dict[str, float] = {}
    for shots in size.episodes:
        episodes = tested_episodes(world, samples, size, predictor.net.config, shots)
        classes = sorted({e.class_id for e in episodes})
        scores = {fusion: metrics.compute(classes) for fusion, metrics in predictor.evaluate(samples, episodes).items()}
        found |= {f"miou_{shots}shot": scores["cross"]["miou"], f"fbiou_{shots}shot": scores["cross"]["fbiou"]}
        if predictor.net.config.scl and shots == 1:
            found |= self_guidance(predictor, samples, episodes)
        if predictor.net.config.scl and shots > 1:
            found[f"miou_{shots}shot_mean"] = scores["mean"]["miou"]
            found["cross_gain"] = scores["cross"]["miou"] - scores["mean"]["miou"]
    return found


def self_guidance(predictor: FewShotPredictor, samples: Samples, episodes: Sequence[Episode]) -> dict[str, float]:
    """What the two vectors see in a support, and what the query loses without them. Means over episodes."""
    net, featurizer, metrics = predictor.net, predictor.featurizer, EpisodeMetrics()
    where = {sample_id: position for position, sample_id in enumerate(samples.ids)}
    rows = []
    for episode in episodes:
        query, shown = (samples.example(where[i]) for i in (episode.query, episode.supports[0]))
        if query.mask is None or shown.mask is None or not isinstance(net.decoder, PyramidDecoder):
            continue
        shot = featurizer.shot(shown.image, binary_mask(shown.mask, episode.class_id), episode.supports[0])
        mask = shot.grid_mask[None]
        with evaluating(net):
            features = net.down_support(shot.features.middle[None])
            own, guided = masked_mean(features, mask), guide(net.decoder, features, mask, net.config.split)
            second = second_look(net.decoder, features, guided, net.config.inter_scale_source)
        looks = [decoded.logits.argmax(dim=1) for decoded in (guided.first, second)]
        ious = [float(mask_iou(look, mask[:, 0].long(), "foreground")) for look in looks]
        rows.append((*ious, 1 - float((looks[0] * mask[:, 0]).sum() / mask.sum())))
        supports = Supports(episode.class_id, (shot,), torch.ones(1), (own, own))
        target = binary_mask(query.mask, episode.class_id)
        found = predictor.logits(featurizer.image(query.image, episode.query), target.shape, supports)
        metrics.update(episode.class_id, found.labels, target)
    first, second_, missed = np.mean(rows, axis=0).tolist()
    plain = metrics.compute(sorted({e.class_id for e in episodes}))["miou"]
    return {"support_first": first, "support_second": second_, "missed": missed, "miou_1shot_own": plain}


def prior_scores(world: World, size: Size, seed: int, fold: int, folder: Path) -> dict[str, float]:
    """Mean average precision of each training-free map over the 1-shot episodes."""
    given = {**settings_of(world, size, seed, fold), "prior": "pi_clip"}
    config, as_published = Config(**{**given, "priors": NO_PRODUCT}), Config(**{**given, "priors": PAPER})
    joint = Config(**{**given, "priors": {"product_blocks": BLOCKS, "product_text": False}})
    featurizer, paper, both = (
        featurizer_of(one, world.space, torch.device("cpu")) for one in (config, as_published, joint)
    )
    samples = Samples.open(world.test, str(folder / "cache"))
    where = {sample_id: position for position, sample_id in enumerate(samples.ids)}
    values: dict[str, list[float]] = {arm: [] for arm in PRIORS}
    for episode in tested_episodes(world, samples, size, config, 1):
        query, support = samples.example(where[episode.query]), samples.example(where[episode.supports[0]])
        if query.mask is None or support.mask is None:
            continue
        target = binary_mask(query.mask, episode.class_id)
        shown = (support.image, binary_mask(support.mask, episode.class_id))
        maps = prior_maps(featurizer, paper, both, episode, query.image, *shown)
        size_ = target.shape[1], target.shape[0]
        full = {arm: cv2.resize(map_, size_, interpolation=cv2.INTER_LINEAR) for arm, map_ in maps.items()}
        product, text = (torch.from_numpy(full[name]) for name in ("product", "vtp+pir"))
        full["product*vtp"] = product_with_text(product[None], text)[0].numpy()
        for arm, map_ in full.items():
            values[arm].append(average_precision(map_, target))
    return {arm: float(np.mean(found)) for arm, found in values.items()}


def prior_maps(
    featurizer: Featurizer,
    paper: Featurizer,
    both: Featurizer,
    episode: Episode,
    query: Uint8Array,
    support: Uint8Array,
    mask: Uint8Array,
) -> dict[str, NDArray[np.float32]]:
    """The maps of an episode on their own grids; `paper` matches as published, `both` gives the product last."""
    seen = featurizer.image(query, episode.query)
    shot = featurizer.shot(support, mask, episode.supports[0])
    if featurizer.clip is None or seen.clip is None:
        raise ValueError("prior_maps: expected prior: pi_clip")
    maps = {
        "prior_plain": featurizer.plain(seen, [shot]),
        "vvp_paper": paper.vvp(paper.image(query, episode.query), [paper.shot(support, mask)]).mean(dim=0),
        "vvp_ours": featurizer.vvp(seen, [shot]).mean(dim=0),
        "vtp": featurizer.clip.cam(seen.clip.view, episode.class_id),
        "vtp+pir": featurizer.vtp(seen, episode.class_id),
        "product": both.vvp(both.image(query, episode.query), [both.shot(support, mask)])[-1],
    }
    return {arm: map_.float().cpu().numpy() for arm, map_ in maps.items()}


@contextlib.contextmanager
def apart(worlds: Sequence[World]) -> Iterator[Callable[..., dict[str, Any]]]:
    """A function that measures all worlds at once: `measured(work, *rest)` gives `work(world, *rest)` by world's name.
    Each world has a process of its own, which keeps its frozen features, and its share of the cores; a lone one needs
    none.
    """
    with contextlib.ExitStack() as stack:
        pools: dict[str, Executor] = {}
        for world in worlds:
            pool: Executor = ThreadPoolExecutor(1)
            if len(worlds) > 1:
                threads = max(1, (os.cpu_count() or 1) // len(worlds))
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(1, context, torch.set_num_threads, (threads,))
            pools[world.name] = stack.enter_context(pool)

        def measured(work: Callable[..., Any], *rest: Any) -> dict[str, Any]:
            begun = {world.name: pools[world.name].submit(work, world, *rest) for world in worlds}
            return {name: future.result() for name, future in begun.items()}

        yield measured


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    open_arms = {s: [a for a in (*PRIORS, *NETWORKS) if not record.has(a, s)] for s in options.seeds}
    worlds: list[World] = []
    if any(open_arms.values()):
        found = [ccp_world(options, size, work), drawn_world(size, work)]
        worlds = [world for world in found if world is not None]
    with apart(worlds) as measured:
        for seed, arms in open_arms.items():
            folds = tuple(range(FOLDS)) if options.budget == "full" else (seed % FOLDS,)
            if set(arms) & set(PRIORS):
                maps = measured(all_priors, size, seed, folds, work)
                for arm in PRIORS:
                    add(record, arm, seed, {name: {"ap": scores[arm]} for name, scores in maps.items()})
            for arm in (a for a in arms if a in NETWORKS):
                add(record, arm, seed, measured(all_starts, arm, size, seed, folds, work))
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


def all_priors(world: World, size: Size, seed: int, folds: Sequence[int], folder: Path) -> dict[str, float]:
    """Means of `prior_scores` over folds."""
    return _mean([prior_scores(world, size, seed, fold, folder / "cache" / world.name) for fold in folds])


def add(record: Record, arm: str, seed: int, by_world: dict[str, dict[str, float]]) -> None:
    """Store the mean over worlds of each metric, and each world's own."""
    found = _mean(list(by_world.values()))
    for world, scores in by_world.items():
        found |= {f"{metric}@{world}": value for metric, value in scores.items()}
    other = record.values.get(WITHOUT.get(arm, ""), {}).get(str(seed), {})
    gains = {
        metric.replace("miou", "gain"): value - other[metric]
        for metric, value in found.items()
        if metric.startswith("miou") and metric in other
    }
    found |= {metric: value for metric, value in gains.items() if "#" not in metric} | smallest_seen(gains)
    record.add(arm, seed, found)
    print(f"seed {seed}: {arm} { {name: round(value, 3) for name, value in found.items()} }", flush=True)


def smallest_seen(gains: dict[str, float]) -> dict[str, float]:
    """Twice the standard error of gains `gain_NAME#START[@WORLD]` over starts, as `sees_NAME[@WORLD]`."""
    by_name: dict[str, list[float]] = {}
    for metric, value in gains.items():
        name, mark, rest = metric.partition("#")
        if mark:
            by_name.setdefault(name + rest.lstrip("0123456789"), []).append(value)
    errors = {name: float(np.std(v, ddof=1) / np.sqrt(len(v))) for name, v in by_name.items() if len(v) > 1}
    return {name.replace("gain", "sees"): 2 * error for name, error in errors.items()}


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


if __name__ == "__main__":
    run(parse_options("few_shot", __doc__))
