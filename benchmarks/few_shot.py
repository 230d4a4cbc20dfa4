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
Arms `prior_plain`, `vvp_paper` (masked picture, best cosine), `vvp_ours`, `vtp`, `vtp+pir`: training-free maps of the
same 1-shot episodes; metric `ap`, the average precision over an episode's pixels, mean over episodes. Prompts are
target-only throughout.
Each metric is the mean of two worlds, which follow as `@ccp` (street photos, held-out garments; tested on stems that
nothing was tuned on) and `@drawn` (drawn scenes, held-out classes, tested in a style that training never saw).
"""

import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Options, Record, is_train_key, parse_options
from benchmarks.shards import Row, sample_row, write_rows
from maskmill.data_contracts import (
    LabelClass,
    LabelSpace,
    Uint8Array,
    decode_mask,
    encode_image,
    load_label_space,
)
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.starter.drawn import DRAWN_CLASSES, KNOWN_STYLES, UNSEEN_STYLES, SceneConfig, render_scene
from maskmill.trainers.engine import DataConfig, Samples, evaluating
from maskmill.trainers.few_shot.base import PyramidDecoder, masked_mean
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.episodes import Episode, binary_mask
from maskmill.trainers.few_shot.features import Featurizer
from maskmill.trainers.few_shot.metrics import EpisodeMetrics, average_precision
from maskmill.trainers.few_shot.predict import FewShotPredictor, Supports
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
}
NETWORKS: dict[str, dict[str, Any]] = {
    "base": {"prior": "plain", "scl": False},
    "base+pi_clip": {"prior": "pi_clip", "scl": False, "priors": PAPER},
    "base+ours": {"prior": "pi_clip", "scl": False},
    "base+scl": {"prior": "plain", "scl": True, "support_weight": 1.0, "inter_scale_source": "initial"},
    "base+scl_ours": {"prior": "plain", "scl": True},
}
#: What each arm adds to.
WITHOUT = {arm: "base" for arm in NETWORKS if arm != "base"}
PRIORS = ("prior_plain", "vvp_paper", "vvp_ours", "vtp", "vtp+pir")
PAIRED = ("miou_1shot", "miou_5shot")
FOLDS = 4
SCENE_SIDE = 160
NOT_GARMENTS = ("background", "skin", "hair")
#: Words that CLIP reads for the coarse classes, which are names of groups.
WORDS = {
    "outerwear": "coat or jacket",
    "top": "shirt",
    "hosiery": "tights",
    "footwear": "shoes",
    "bag": "purse",
    "accessory": "belt or scarf",
}
SURROUNDINGS = ("street", "wall", "building", "road", "tree", "grass", "sky", "door", "window", "floor", "fence", "car")


@dataclass(frozen=True)
class Size:
    """How much of everything a budget allows."""

    scenes: int
    tested_scenes: int
    photos: int
    tested_photos: int
    steps: int
    episodes: dict[int, int]  # by shots
    starts: int = 3  # of each network


SIZES = {
    "small": Size(280, 133, 220, 130, steps=150, episodes={1: 150, 5: 60}),
    "full": Size(1500, 400, 600, 400, steps=1200, episodes={1: 500, 5: 300}),
}


@dataclass(frozen=True)
class World:
    """Training and tested samples (shards) in one label space; `episodes` are the options of its protocol."""

    name: str
    space: LabelSpace
    data: DataConfig
    test: DataConfig
    episodes: dict[str, Any]


def drawn_world(
    size: Size,
    folder: Path,
    known: tuple[str, ...] = KNOWN_STYLES,
    unseen: tuple[str, ...] = UNSEEN_STYLES,
    first: int = 1_000_000,
) -> World:
    """Scenes of known styles to learn from, of an unseen one to test on, numbered from `first`. Images with a held-out
    class are left out.
    """
    voc = load_label_space("voc")
    space = voc.model_copy(update={"classes": tuple(c for c in voc.classes if c.name in DRAWN_CLASSES)})

    def rows(styles: tuple[str, ...], numbers: range) -> Iterator[Row]:
        for number in numbers:  # classes take turns, so that each is shown often enough
            pair = (DRAWN_CLASSES[number % len(DRAWN_CLASSES)], DRAWN_CLASSES[(7 * number + 3) % len(DRAWN_CLASSES)])
            config = SceneConfig(
                size=SCENE_SIDE, styles=styles, classes=tuple(dict.fromkeys(pair)), max_objects=2, max_distractors=1
            )
            scene = render_scene(config, number)
            yield sample_row(encode_image(scene.image), scene.mask, space)

    data = as_data(rows(known, range(size.scenes)), folder / "drawn-train")
    test = DataConfig(
        samples=(write_rows(rows(unseen, range(first, first + size.tested_scenes)), folder / "drawn-test"),)
    )
    return World("drawn", space, data, test, {"drop_held_out": True, "min_share": 0.01})


def ccp_world(options: Options, size: Size, folder: Path) -> World | None:
    """Street photos in coarse garments; None where a folder lacks them. Every photo shows several garments, so training
    photos keep held-out ones, whose pixels are left out of the losses.
    """
    learnt, tested = read_photos(options.data), read_photos(options.tested)
    if options.test_data is None:
        learnt = [photo for photo in learnt if is_train_key(photo.key)]
        tested = [photo for photo in tested if not is_train_key(photo.key)]
    return photo_world(learnt, tested, size, folder)


def photo_world(learnt: Sequence["Photo"], tested: Sequence["Photo"], size: Size, folder: Path) -> World | None:
    """The world of these photos; None where one side has none."""
    if not learnt or not tested:
        print("ccp: no photos there; drawn scenes only", flush=True)
        return None
    space = garments(learnt[0].root)
    data = DataConfig(
        samples=(write_rows((p.row(space) for p in spread(learnt, size.photos, space)), folder / "ccp-train"),)
    )
    test = DataConfig(
        samples=(write_rows((p.row(space) for p in spread(tested, size.tested_photos, space)), folder / "ccp-test"),)
    )
    return World("ccp", space, data, test, {"drop_held_out": False, "held_out_pixels": "ignore", "min_share": 0.01})


@dataclass(frozen=True)
class Photo:
    """A street photo with its mask of fine labels."""

    root: Path
    key: str

    def mask(self) -> Uint8Array:
        """Coarse ids, without skin and hair."""
        fine = decode_mask((self.root / "masks" / f"{self.key}.png").read_bytes(), self.key)
        coarse: Uint8Array = coarse_ids(self.root)[fine]
        return coarse

    def row(self, space: LabelSpace) -> Row:
        return sample_row((self.root / "images" / f"{self.key}.jpg").read_bytes(), self.mask(), space)


def read_photos(root: Path | None) -> list[Photo]:
    """All photos with a mask, by name."""
    folder = None if root is None else root / "ccp"
    if folder is None or not (folder / "classes.json").is_file():
        return []
    stems = sorted(path.stem for path in (folder / "images").glob("*.jpg"))
    return [Photo(folder, stem) for stem in stems if (folder / "masks" / f"{stem}.png").is_file()]


@functools.cache
def coarse_ids(root: Path) -> NDArray[np.uint8]:
    """Coarse id of every fine id, 256 entries; what is no garment becomes 0, ids beyond the list 255."""
    found = json.loads((root / "classes.json").read_text())
    table = np.full(256, 255, np.uint8)
    for fine, coarse in enumerate(found["fine_to_coarse"]):
        table[fine] = 0 if found["coarse_classes"][coarse] in NOT_GARMENTS else coarse
    return table


def garments(root: Path) -> LabelSpace:
    """The coarse classes without skin and hair."""
    names = json.loads((root / "classes.json").read_text())["coarse_classes"]
    classes = [LabelClass(id=i, name=n, prompt=WORDS.get(n)) for i, n in enumerate(names) if n not in NOT_GARMENTS]
    return LabelSpace(name="garments", classes=tuple(classes), background_prompts=SURROUNDINGS)


def spread(photos: Sequence[Photo], count: int, space: LabelSpace) -> list[Photo]:
    """At most `count` photos in which classes take turns, so that rare ones are there."""
    pixels = np.array([np.bincount(p.mask().ravel(), minlength=256)[list(space.ids)] / p.mask().size for p in photos])
    lists = [[i for i in range(len(photos)) if pixels[i, c] >= 0.01] for c in range(len(space.ids))]
    chosen: dict[int, None] = {}
    for turn in range(len(photos)):
        for positions in lists:
            if turn < len(positions) and len(chosen) < count:
                chosen.setdefault(positions[turn])
    return [photos[i] for i in chosen]


def as_data(rows: Iterator[Row], folder: Path) -> DataConfig:
    """The rows as one Sample shard to train on."""
    return DataConfig(samples=(write_rows(rows, folder),))


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


def all_starts(arm: str, world: World, size: Size, seed: int, folds: Sequence[int], folder: Path) -> dict[str, float]:
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
    config, as_published = Config(**given), Config(**{**given, "priors": PAPER})
    featurizer, paper = (featurizer_of(one, world.space, torch.device("cpu")) for one in (config, as_published))
    samples = Samples.open(world.test, str(folder / "cache"))
    where = {sample_id: position for position, sample_id in enumerate(samples.ids)}
    values: dict[str, list[float]] = {arm: [] for arm in PRIORS}
    for episode in tested_episodes(world, samples, size, config, 1):
        query, support = samples.example(where[episode.query]), samples.example(where[episode.supports[0]])
        if query.mask is None or support.mask is None:
            continue
        target = binary_mask(query.mask, episode.class_id)
        shown = (support.image, binary_mask(support.mask, episode.class_id))
        maps = prior_maps(featurizer, paper, episode, query.image, *shown)
        for arm, map_ in maps.items():
            full = cv2.resize(map_, (target.shape[1], target.shape[0]), interpolation=cv2.INTER_LINEAR)
            values[arm].append(average_precision(full, target))
    return {arm: float(np.mean(found)) for arm, found in values.items()}


def prior_maps(
    featurizer: Featurizer,
    paper: Featurizer,
    episode: Episode,
    query: Uint8Array,
    support: Uint8Array,
    mask: Uint8Array,
) -> dict[str, NDArray[np.float32]]:
    """The maps of an episode on their own grids; `paper` matches as published."""
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
    }
    return {arm: map_.float().cpu().numpy() for arm, map_ in maps.items()}


def run(options: Options) -> None:
    """All arms of all seeds, each added as soon as it is measured."""
    record, size = Record.open(options), SIZES[options.budget]
    work = options.json_path.with_name(f"{options.json_path.name}.work")
    open_arms = {s: [a for a in (*PRIORS, *NETWORKS) if not record.has(a, s)] for s in options.seeds}
    worlds: list[World] = []
    if any(open_arms.values()):
        found = [ccp_world(options, size, work), drawn_world(size, work)]
        worlds = [world for world in found if world is not None]
    for seed, arms in open_arms.items():
        folds = range(FOLDS) if options.budget == "full" else (seed % FOLDS,)
        if set(arms) & set(PRIORS):
            measured = {
                world.name: _mean([prior_scores(world, size, seed, f, work) for f in folds]) for world in worlds
            }
            for arm in PRIORS:
                add(record, arm, seed, {name: {"ap": scores[arm]} for name, scores in measured.items()})
        for arm in (a for a in arms if a in NETWORKS):
            add(record, arm, seed, {w.name: all_starts(arm, w, size, seed, folds, work) for w in worlds})
    record.finish(device="cuda" if torch.cuda.is_available() else "cpu")
    shutil.rmtree(work, ignore_errors=True)


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
