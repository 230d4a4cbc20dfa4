"""Few-shot segmentation, top to bottom: classes held out, episodes, frozen features, losses, loop, artifact."""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.engine import (
    Artifact,
    ArtifactInfo,
    Job,
    Loop,
    ParamGroup,
    PredictConfig,
    Samples,
    make_optimizer,
    pick_device,
    save_artifact,
)
from maskmill.trainers.engine.batches import Batch
from maskmill.trainers.few_shot.base import (
    HdmnetDecoder,
    MatchingDecoder,
    distillation_loss,
    released_distillation,
)
from maskmill.trainers.few_shot.batch_norms import seen_together
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.episodes import ClassIndex, Episode, EpisodeConfig, Episodes, held_out
from maskmill.trainers.few_shot.features import Featurizer
from maskmill.trainers.few_shot.known import ENCODER, read_known
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.predict import FewShotPredictor
from maskmill.trainers.few_shot.scl import cross_entropy, decoded_loss, scl_loss
from maskmill.trainers.few_shot.source import EpisodeSource
from maskmill.trainers.few_shot.start import start_by_name
from maskmill.vision.segmenters import weights_stamp

MASKS = False  # of images alone: it needs labelled examples beside an image
VERSION = 3
LOOKED_AT = 8  # episodes that a finished network is tried on


def stamps(config: Config) -> tuple[str, ...]:
    """The frozen weights."""
    encoder = weights_stamp(config.encoder, config.encoder_weights)
    if config.base_learner is not None:
        encoder = read_known(config.base_learner).stamp
    return (encoder, config.priors.stamp) if config.prior == "pi_clip" else (encoder,)


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


def featurizer_of(config: Config, space: LabelSpace, device: torch.device) -> Featurizer:
    """The frozen parts for a label space."""
    novel = held_out(space, config.episodes)
    names = {c.id: config.priors.words.get(c.name, c.text) for c in space.classes}
    base = [i for i in space.ids if i not in novel]
    if config.base_learner is not None:
        read_known(config.base_learner).check(config.model_dump(include=set(ENCODER)), novel)
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


def episode_loss(net: FewShotNet, batch: Batch, config: Config, step: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a batch of episodes in a step, and what is worth writing down."""
    inputs = (batch["query"], batch["supports"], batch["masks"], batch["priors"])
    target = batch["query_target"]
    if config.scl:
        out = net.self_guided(*inputs)
        weights = {
            "support_weight": config.support_weight if step >= config.support_from * config.steps else 0.0,
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
    decoded = net(*inputs, batch.get("base"), batch.get("left_out"), batch.get("canvases"))
    loss = decoded_loss(decoded, target, config.inner_weight, config.object_weight)
    if isinstance(net.decoder, MatchingDecoder):
        loss = loss + distillation_loss(decoded.correlations, target)
    if isinstance(net.decoder, HdmnetDecoder):
        loss = loss + released_distillation(decoded.correlations, target)
    if decoded.final is not None:
        loss = loss + cross_entropy(decoded.final, target, config.object_weight)
    return loss, {"query": cross_entropy(decoded.answer, target)}


def train(config: Config, job: Job) -> str:
    """Train on episodes of the base classes; returns the artifact's folder."""
    device = pick_device(config.runtime.device)
    samples = job.data.with_masks()
    featurizer = featurizer_of(config, job.space, device)
    episodes = training_episodes(samples, job.space, config)
    torch.manual_seed(config.seed)
    net = FewShotNet(config, featurizer.channels, config.prior_channels, featurizer.finer)
    if config.start == "by_name":
        start_by_name(net, config.seed if config.start_seed is None else config.start_seed)
    optimizer = make_optimizer(config, optimizer_groups(net, config))
    hidden = held_out(job.space, config.episodes) if config.episodes.held_out_pixels == "ignore" else ()
    source = EpisodeSource(samples, episodes, featurizer, hidden)
    drifts = config.encoder_norms == "batch"
    modules: dict[str, nn.Module] = {"net": net, **({"encoder": featurizer.encoder} if drifts else {})}
    loop = Loop(config, job, source, modules=modules, optimizers={"main": optimizer})
    predictor = FewShotPredictor(net, featurizer, job.space)
    score = None if job.val is None else functools.partial(measure, predictor, job.val.with_masks(), config)

    net.train()
    for step, batch in loop:
        batch = seen_together(featurizer, batch) if drifts else batch
        with loop.autocast():
            loss, notes = episode_loss(net, batch, config, step)
        loop.update(loss)
        loop.log(loss=loss, **notes)
        loop.evaluate(score)

    return save_artifact(
        job,
        config,
        modules=modules,
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


def evaluate(predictor: FewShotPredictor, samples: Samples, info: ArtifactInfo) -> dict[str, Any]:
    """`measure` of a trained artifact: class mIoU and FB-IoU over episodes of the held-out classes."""
    return measure(predictor, samples.with_masks(), config_of(info))


def config_of(info: ArtifactInfo) -> Config:
    """The settings of an artifact; what an earlier one does not say of its norms is how they were then, whatever its
    preset says now.
    """
    return Config.model_validate({"encoder_norms": "stored", **info.config})


def look(predictor: FewShotPredictor, samples: Samples, info: ArtifactInfo) -> list[str]:
    """Whether the network finds anything at all in a few episodes of its own training classes."""
    config = config_of(info)
    episodes = training_episodes(samples.with_masks(), predictor.space, config).take(LOOKED_AT)
    found = predictor.evaluate(samples, episodes)["cross"].compute(sorted({one.class_id for one in episodes}))
    if found["miou"] > 0:
        return []
    return [
        f"the network has collapsed: it finds no object in {len(episodes)} episodes of its own training samples; train "
        "longer, or lower lr"
    ]


def load(artifact: Artifact, device: torch.device) -> FewShotPredictor:
    """The trained network, ready for supports of any class.

    Raises:
        ValueError: the frozen weights are not those that it was trained on.
    """
    info = artifact.info
    config = config_of(info)
    if (found := list(stamps(config))) != info.model["stamps"]:
        raise ValueError(
            f"{artifact.path}: trained on frozen weights {info.model['stamps']}, found {found}; put the same weights "
            "in their place, or train again"
        )
    featurizer = featurizer_of(config, info.label_space, device)
    net = FewShotNet(config, info.model["channels"], info.model["priors"], featurizer.finer)
    artifact.load(net=net)
    if config.encoder_norms == "batch":
        artifact.load(encoder=featurizer.encoder)
    return FewShotPredictor(net, featurizer, info.label_space)
