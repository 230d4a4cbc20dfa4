"""ABD, top to bottom: settings, networks, labelled and unlabelled data, the host's step, loop, artifact."""

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from maskmill.trainers.abd.best import BEST, Keeper
from maskmill.trainers.abd.config import Config
from maskmill.trainers.abd.hosts import (
    Networks,
    Terms,
    bcp_step,
    cross_teaching_step,
    pretraining_step,
    supervised_step,
)
from maskmill.trainers.abd.mixing import follow
from maskmill.trainers.abd.networks import build_networks, hold, input_normalisation, rebuild
from maskmill.trainers.abd.predict import AbdPredictor
from maskmill.trainers.abd.views import DecodedSource, TwoViews
from maskmill.trainers.engine import (
    Artifact,
    Batch,
    Job,
    JointSource,
    Loop,
    PredictConfig,
    Samples,
    Source,
    describe_segmenter,
    evaluate,
    make_optimizer,
    param_groups,
    save_artifact,
)
from maskmill.vision.segmenters import SegmenterConfig, segmenter_stamp

VERSION = 3


def stamps(config: Config) -> tuple[str, ...]:
    """The encoders' first weights."""
    networks = (config.network, config.partner) if config.two_networks else (config.network,)
    return tuple(segmenter_stamp(network) for network in networks)


def train(config: Config, job: Job) -> str:
    """Train on labelled and unlabelled samples; returns the artifact's folder."""
    classes, background = max(job.space.size, 2), job.space.background_id
    if background is None:
        raise ValueError(f"label space {job.space.name}: abd needs a background id, found none. Fix: set background_id")
    mean, std = input_normalisation(config)
    networks = build_networks(config, classes)
    optimizers = {"first": make_optimizer(config, param_groups(networks.first))}
    if networks.second is not None:
        optimizers["second"] = make_optimizer(config, param_groups(networks.second, config.partner_lr_factor))

    for optimizer in optimizers.values():
        fuse(optimizer)

    labelled, unlabelled = split(replace(job.data, floats=config.float_images), config)
    view = functools.partial(TwoViews, config, mean, std, background)
    sources: dict[str, Source] = {
        "labelled": DecodedSource(labelled, view(with_mask=True), config.batch, config.seed),
    }
    if config.host != "supervised":
        sources["unlabelled"] = DecodedSource(unlabelled, view(with_mask=False), config.unlabelled_batch, config.seed)

    modules = {name: module for name, module in vars(networks).items() if module is not None}
    keeper = None
    if config.keep_best and job.val is not None:
        keeper = Keeper(networks.first, lambda network: make_optimizer(config, param_groups(network)))
        modules[BEST], optimizers[BEST] = keeper.network, keeper.optimizer
    val = None if job.val is None else replace(job.val, floats=config.float_images)
    loop = Loop(config, job, JointSource(**sources), modules=modules, optimizers=optimizers)
    predict = predict_config(config, networks)
    predictor = AbdPredictor(networks.first, job.space, mean, std, predict, loop.device, zoom=config.test_zoom)
    score: Callable[[], dict[str, Any]] | None = None
    if val is not None and keeper is not None:
        score = functools.partial(keeper.score, loop, optimizers["first"], predictor, val, job.space)
    elif val is not None:
        score = functools.partial(evaluate, predictor.labels, val, job.space)
    host = step_of(config, networks, loop, background)

    for module in modules.values():
        module.train()
    hold(config, networks.first, networks.second)
    hold(config, networks.teacher, None)
    for step, batch in loop:
        if config.host == "bcp" and step == config.pretrain_steps:
            if keeper is not None:
                keeper.give_back(loop, optimizers["first"])
            begin_self_training(config, networks, optimizers)
        with loop.autocast():
            terms = host(step, batch)
        loop.update(terms.loss, *_active(config, step))
        if networks.teacher is not None and (done := teacher_steps(config, step)) is not None:
            follow(networks.teacher, networks.first, ema(config, done))
        loop.log(loss=terms.loss, **terms.notes)
        loop.evaluate(score)

    if keeper is not None:
        keeper.give_back(loop)
    groups = sorted({info.group for info in labelled.infos if info.group is not None})
    return save_artifact(
        job,
        config,
        modules={name: module for name, module in modules.items() if name not in ("teacher", BEST)},
        model={
            "classes": classes,
            "first": _described(config.network, classes, networks.first),
            "second": None if networks.second is None else _described(config.partner, classes, networks.second),
            "labelled_groups": groups,
            "zoom": config.test_zoom,
            "floats": config.float_images,
        },
        metrics={**loop.metrics, "labelled": len(labelled), "unlabelled": len(unlabelled)},
        curves=loop.curves(),
        mean=mean,
        std=std,
        predict=predict,
    )


def fuse(optimizer: Optimizer) -> None:
    """Let Adam update all weights in one kernel: with many small tensors a step of its plain loop costs more."""
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = True, False


def split(data: Samples, config: Config) -> tuple[Samples, Samples]:
    """Labelled and unlabelled samples. With `labelled_groups` whole groups are one or the other, and the masks of the
    others are never opened; a fully supervised host needs no unlabelled ones.

    Raises:
        ValueError: a named group is not there, or nothing is left on one side.
    """
    if config.labelled_groups is not None:
        named, there = set(config.labelled_groups), set(data.groups)
        if missing := sorted(named - there):
            raise ValueError(
                f"labelled_groups: expected groups of the samples, found none called {', '.join(missing[:5])}; "
                f"there are {', '.join(sorted(there)[:8])}{' …' if len(there) > 8 else ''}"
            )
        hidden = tuple(replace(i, has_mask=i.has_mask and i.group in named) for i in data.infos)
        data = replace(data, infos=hidden)
    labelled, unlabelled = data.with_masks(), data.without_masks()
    if config.host != "supervised" and not len(unlabelled):
        raise ValueError(
            f"{', '.join(data.config.samples)}: expected unlabelled samples beside the {len(labelled)} labelled ones, "
            "found none; add samples without masks, or name the labelled ones in labelled_groups"
        )
    return labelled, unlabelled


def step_of(config: Config, networks: Networks, loop: Loop, background: int) -> Callable[[int, Batch], Terms]:
    """The host's step as a function of step and batch."""

    def step(number: int, batch: Batch) -> Terms:
        early = number < config.pretrain_steps
        if config.host == "bcp":
            if early:
                return pretraining_step(networks, batch, config, loop.rng)
            return bcp_step(networks, batch, config, number, loop.rng, background)
        if early or config.host == "supervised":
            return supervised_step(networks, batch)
        return cross_teaching_step(networks, batch, config, number, loop.rng, background)

    return step


def predict_config(config: Config, networks: Networks) -> PredictConfig:
    """Whole images at the scale that training saw in the middle, padded no further than the networks need."""
    low, high = config.augment.scale if config.geometry == "augment" else (1.0, 1.0)
    encoders: list[Any] = [network.encoder for network in (networks.first, networks.second) if network is not None]
    return PredictConfig(
        fit=config.augment.fit,
        size=max(8, round(config.augment.size * math.sqrt(low * high))),
        multiple=max(getattr(encoder, "output_stride", 1) for encoder in encoders),  # 1: those that take any size
    )


def _active(config: Config, step: int) -> tuple[str, ...]:
    """Optimisers of this step: in the first phase of BCP a student that will be copied over stands still."""
    copied = config.host == "bcp" and config.students == "same"
    alone = not config.two_networks or (copied and step < config.pretrain_steps)
    return ("first",) if alone else ("first", "second")


def begin_self_training(config: Config, networks: Networks, optimizers: dict[str, Optimizer]) -> None:
    """The teacher starts as network 1, unless it followed it so far; so does network 2 where students are the same,
    its optimiser's state too.
    """
    state = networks.first.state_dict()
    if networks.teacher is not None and config.teacher_start == "student":
        networks.teacher.load_state_dict(state)
    if networks.second is not None and config.students == "same":
        networks.second.load_state_dict(state)
        optimizers["second"].load_state_dict(copy.deepcopy(optimizers["first"].state_dict()))


def teacher_steps(config: Config, step: int) -> int | None:
    """How many steps the teacher has followed network 1 for; None in steps in which it does not."""
    done = step if config.teacher_start == "average" else step - config.pretrain_steps
    return done if done >= 0 else None


def ema(config: Config, done: int) -> float:
    """How much of itself the teacher keeps after following for `done` steps."""
    return min(config.ema, 1 - 1 / (done + 2)) if config.ema_warm_up else config.ema


def _described(config: SegmenterConfig, classes: int, network: nn.Module) -> dict[str, Any]:
    """A network's settings without the weights that it began with, enough to build it again."""
    found: dict[str, Any] = describe_segmenter(config, classes, network)["segmenter"]
    return found


def load(artifact: Artifact, device: torch.device) -> AbdPredictor:
    """The trained network 1, with network 2 beside it where there was one."""
    info = artifact.info
    names = [name for name in ("first", "second") if info.model[name] is not None]
    built: dict[str, nn.Module] = {
        name: rebuild(SegmenterConfig.model_validate(info.model[name]), info.model["classes"]) for name in names
    }
    artifact.load(**built)
    second = built.get("second")
    return AbdPredictor(
        built["first"].to(device),
        info.label_space,
        info.mean,
        info.std,
        info.predict,
        device,
        second=None if second is None else second.to(device),
        labelled_groups=tuple(info.model["labelled_groups"]),
        zoom=info.model.get("zoom", "smooth"),
        floats=info.model.get("floats", False),
    )
