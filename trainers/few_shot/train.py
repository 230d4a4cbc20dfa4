"""Few-shot segmentation, top to bottom: classes held out, episodes, frozen features, losses, loop, artefact."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import LabelSpace, Uint8Array, sample_seed
from maskmill.trainers.engine import (
    Artifact,
    Job,
    Loop,
    ParamGroup,
    PredictConfig,
    Remembered,
    Samples,
    collate,
    draw_geometry,
    jitter_colours,
    make_optimizer,
    pick_device,
    save_artifact,
)
from maskmill.trainers.engine.batches import Batch, fill_colour
from maskmill.trainers.few_shot.base import MatchingDecoder, distillation_loss
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.episodes import ClassIndex, Episode, EpisodeConfig, Episodes, binary_mask, split_classes
from maskmill.trainers.few_shot.features import Featurizer, Shot, canvas_target
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.predict import FewShotPredictor
from maskmill.trainers.few_shot.scl import cross_entropy, decoded_loss, scl_loss
from maskmill.vision.segmenters import weights_stamp

VERSION = 2
KEPT_EXAMPLES = 512  # decoded images that a source keeps
KEPT_VIEWS = 1024  # (image, class) pairs whose masks it keeps, where views are not random


def stamps(config: Config) -> tuple[str, ...]:
    """The frozen weights."""
    encoder = weights_stamp(config.encoder, config.encoder_weights)
    return (encoder, config.priors.stamp) if config.prior == "pi_clip" else (encoder,)


def held_out(space: LabelSpace, config: EpisodeConfig) -> tuple[int, ...]:
    """Class ids that training must not learn.

    Raises:
        ValueError: a fold that does not exist, or a name that the space lacks.
    """
    if config.held_out is not None:
        try:
            return tuple(sorted(space.find(name).id for name in config.held_out))
        except KeyError as error:
            raise ValueError(f"held_out: {error.args[0]}") from None
    if config.fold >= config.folds:
        raise ValueError(f"fold: expected 0..{config.folds - 1}, found {config.fold}")
    return split_classes(space.ids, config.folds, config.split)[config.fold]


def training_episodes(samples: Samples, space: LabelSpace, config: Config) -> Episodes:
    """Episodes of the classes that are not held out; with `drop_held_out`, of images that show none of the others."""
    novel = held_out(space, config.episodes)
    index = ClassIndex.of(samples, space.ids)
    if config.episodes.drop_held_out:
        index = index.without(novel)
    base = [i for i in space.ids if i not in novel]
    return Episodes(index, base, config.shots, config.episodes, config.seed)


def test_episodes(
    samples: Samples, space: LabelSpace, config: EpisodeConfig, shots: int, count: int, seed: int
) -> tuple[list[Episode], tuple[int, ...]]:
    """Exactly `count` episodes of the held-out classes (of all classes where none is), and those classes."""
    novel = held_out(space, config) or space.ids
    episodes = Episodes(ClassIndex.of(samples, space.ids), novel, shots, config, seed)
    return episodes.take(count), episodes.classes


@dataclass(frozen=True, eq=False)
class View:
    """An image (H, W, 3) as an episode shows it: `mask` (H, W) of 0, 1, 255; `target` the same at the target size,
    int64; the image's labels; the key of its features, None for a random view.
    """

    image: Uint8Array
    mask: Uint8Array
    target: Tensor
    labels: Sequence[int]
    key: str | None


class EpisodeSource:
    """Batches of episodes as a pure function of the step. Pixels of `hidden` classes are neither object nor background.

    Keys: `query` (B, C, h, w), `supports` (B, K, C, h, w), `masks` (B, K, 1, h, w), `priors` (B, P, h, w),
    `query_target` int64 (B, S, S), `support_target` int64 (B, K, S, S), `sample_id`; S is the config's target size.
    """

    def __init__(
        self, samples: Samples, episodes: Episodes, featurizer: Featurizer, hidden: Sequence[int] = ()
    ) -> None:
        self.samples, self.episodes, self.featurizer = samples, episodes, featurizer
        self.config = featurizer.config
        self._where = {sample_id: position for position, sample_id in enumerate(samples.ids)}
        self._hidden = hidden
        self._example = Remembered(samples.example, KEPT_EXAMPLES)
        self._whole = Remembered(self._whole_view, KEPT_VIEWS)
        self._whole_shot = Remembered(self._shot_of_whole, KEPT_VIEWS)

    def __call__(self, step: int) -> Batch:
        first = step * self.config.batch
        return collate([self.item(self.episodes.episode(first + i)) for i in range(self.config.batch)])

    def item(self, episode: Episode) -> dict[str, Any]:
        """One episode, each of its images flipped or augmented by itself."""
        rng = np.random.default_rng(sample_seed(self.config.seed, episode.query, f"views {episode.number}"))
        view = self._view(episode.query, episode.class_id, rng)
        query = self.featurizer.image(view.image, view.key)
        shown = [self._shot(sample_id, episode.class_id, rng) for sample_id in episode.supports]
        shots = [shot for shot, _ in shown]
        known = view.labels if self.config.priors.leaks else None
        priors = self.featurizer.priors(query, shots, episode.class_id, known)
        # Frozen features of a mirrored image are taken as the mirrored features: exact but for the borders.
        flips = rng.random(1 + len(shots)) < (0.5 if self.config.augment is None else 0.0)
        parts = [(shot, target, flip) for (shot, target), flip in zip(shown, flips[1:], strict=True)]
        return {
            "query": _flip(query.middle, flips[0]),
            "priors": _flip(priors, flips[0]),
            "query_target": _flip(view.target, flips[0]),
            "supports": torch.stack([_flip(s.features.middle, f) for s, _, f in parts]),
            "masks": torch.stack([_flip(s.grid_mask, f) for s, _, f in parts]),
            "support_target": torch.stack([_flip(t, f) for _, t, f in parts]),
            "sample_id": episode.query,
        }

    def _shot(self, sample_id: str, class_id: int, rng: np.random.Generator) -> tuple[Shot, Tensor]:
        """A support and its target."""
        if self.config.augment is None:
            return self._whole_shot(sample_id, class_id)
        return self._made(self._view(sample_id, class_id, rng))

    def _shot_of_whole(self, sample_id: str, class_id: int) -> tuple[Shot, Tensor]:
        return self._made(self._whole(sample_id, class_id))

    def _made(self, view: View) -> tuple[Shot, Tensor]:
        return self.featurizer.shot(view.image, view.mask, view.key), view.target

    def _view(self, sample_id: str, class_id: int, rng: np.random.Generator) -> View:
        """The whole image, or a random view of it."""
        whole = self._whole(sample_id, class_id)
        if self.config.augment is None:
            return whole
        geometry = draw_geometry(rng, whole.mask.shape[0], whole.mask.shape[1], self.config.augment)
        image = geometry.image(whole.image, fill=fill_colour(self.featurizer.mean))
        mask = geometry.label(whole.mask)
        target = canvas_target(mask, self.config.target_size)
        return View(jitter_colours(rng, image, self.config.augment), mask, target, whole.labels, None)

    def _whole_view(self, sample_id: str, class_id: int) -> View:
        example = self._example(self._where[sample_id])
        if example.mask is None:
            raise ValueError(f"{sample_id}: expected a mask, found none")
        mask = binary_mask(example.mask, class_id, self._hidden)
        target = canvas_target(mask, self.config.target_size)
        return View(example.image, mask, target, example.info.class_ids, sample_id)


def _flip(maps: Tensor, flip: bool) -> Tensor:
    return maps.flip(-1) if flip else maps


def featurizer_of(config: Config, space: LabelSpace, device: torch.device) -> Featurizer:
    """The frozen parts for a label space."""
    novel = held_out(space, config.episodes)
    names = {c.id: c.text for c in space.classes}
    base = [i for i in space.ids if i not in novel]
    return Featurizer(config, names, base, space.background_prompts, device)


def optimizer_groups(net: FewShotNet, config: Config) -> list[ParamGroup]:
    """New layers at `lr_parity` times the nominal rate: all of PFENet's, the merges and reductions of HDMNet's."""
    if config.base == "pfenet":
        return [ParamGroup(tuple(net.parameters()), config.lr_parity)]
    slow = {name for name, _ in net.named_parameters() if not name.startswith("down_") and "_merge" not in name}
    named = list(net.named_parameters())
    return [
        ParamGroup(tuple(p for name, p in named if name in slow)),
        ParamGroup(tuple(p for name, p in named if name not in slow), config.lr_parity),
    ]


def episode_loss(net: FewShotNet, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a batch of episodes, and what is worth writing down."""
    inputs = (batch["query"], batch["supports"], batch["masks"], batch["priors"])
    target = batch["query_target"]
    if config.scl:
        out = net.self_guided(*inputs)
        weights = {
            "support_weight": config.support_weight,
            "inner_weight": config.inner_weight,
            "object_weight": config.object_weight,
            "support_object_weight": config.support_object_weight,
        }
        shown = batch["support_target"][:, 0]
        loss = scl_loss(out.query, out.first, out.second, target, shown, **weights)
        return loss, {
            "query": cross_entropy(out.query.logits, target),
            "support": cross_entropy(out.first.logits, shown),
        }
    decoded = net(*inputs)
    loss = decoded_loss(decoded, target, config.inner_weight, config.object_weight)
    if isinstance(net.decoder, MatchingDecoder):
        loss = loss + distillation_loss(decoded.correlations, target)
    return loss, {"query": cross_entropy(decoded.logits, target)}


def train(config: Config, job: Job) -> str:
    """Train on episodes of the base classes; returns the artefact's folder."""
    device = pick_device(config.runtime.device)
    samples = job.data.with_masks()
    featurizer = featurizer_of(config, job.space, device)
    episodes = training_episodes(samples, job.space, config)
    torch.manual_seed(config.seed)
    net = FewShotNet(config, featurizer.channels, config.prior_channels)
    optimizer = make_optimizer(config, optimizer_groups(net, config))
    hidden = held_out(job.space, config.episodes) if config.episodes.held_out_pixels == "ignore" else ()
    source = EpisodeSource(samples, episodes, featurizer, hidden)
    loop = Loop(config, job, source, modules={"net": net}, optimizers={"main": optimizer})
    predictor = FewShotPredictor(net, featurizer, job.space)
    score = None if job.val is None else functools.partial(measure, predictor, job.val.with_masks(), config)

    net.train()
    for _, batch in loop:
        with loop.autocast():
            loss, notes = episode_loss(net, batch, config)
        loop.update(loss)
        loop.log(loss=loss, **notes)
        loop.evaluate(score)

    return save_artifact(
        job,
        config,
        modules={"net": net},
        model={"channels": featurizer.channels, "priors": config.prior_channels, "stamps": list(stamps(config))},
        metrics=loop.metrics,
        curves=loop.curves(),
        mean=featurizer.mean,
        std=featurizer.std,
        predict=PredictConfig(fit="squash", size=config.size),
    )


def measure(predictor: FewShotPredictor, val: Samples, config: Config) -> dict[str, Any]:
    """Class mIoU and FB-IoU of the held-out classes: means over the test seeds, and each seed's under `seeds`."""
    runs = []
    for seed in config.test_seeds or (config.seed,):
        drawn = test_episodes(val, predictor.space, config.episodes, config.test_shots, config.test_episodes, seed)
        runs.append(predictor.evaluate(val, drawn[0])["cross"].compute(drawn[1]))
    names = {c: predictor.space.by_id[c].name for c in runs[0]["iou"]}
    return {
        "miou": float(np.mean([run["miou"] for run in runs])),
        "fbiou": float(np.mean([run["fbiou"] for run in runs])),
        "iou": {names[c]: float(np.mean([run["iou"].get(c, 0.0) for run in runs])) for c in names},
        "seeds": [run["miou"] for run in runs],
        "prompts": config.priors.prompts if config.prior == "pi_clip" else "none",
    }


def load(artifact: Artifact, device: torch.device) -> FewShotPredictor:
    """The trained network, ready for supports of any class.

    Raises:
        ValueError: the frozen weights are not those that it was trained on.
    """
    info = artifact.info
    config = Config.model_validate(info.config)
    if (found := list(stamps(config))) != info.model["stamps"]:
        raise ValueError(
            f"{artifact.path}: trained on frozen weights {info.model['stamps']}, found {found}; put the same weights "
            "in their place, or train again"
        )
    net = FewShotNet(config, info.model["channels"], info.model["priors"])
    artifact.load(net=net)
    return FewShotPredictor(net, featurizer_of(config, info.label_space, device), info.label_space)
