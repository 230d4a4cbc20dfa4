"""Training of the affinity network from seeds, top to bottom: settings, model, data, loop, artifact."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from maskmill.trainers.affinity.cells import EncodedSource, cell_targets, encoded_levels
from maskmill.trainers.affinity.losses import class_loss, gated_loss, pair_loss, released_pair_loss
from maskmill.trainers.affinity.model import STRIDE, AffinityNet, Cells, Nodes, freeze_as_released
from maskmill.trainers.affinity.pairs import feature_distance, pairs_inside
from maskmill.trainers.affinity.predict import AffinityPredictor
from maskmill.trainers.engine import (
    Artifact,
    AugmentConfig,
    Job,
    Loop,
    ParamGroup,
    SampleSource,
    SegmentationView,
    TrainerConfig,
    make_optimizer,
    param_groups,
    save_artifact,
)
from maskmill.trainers.engine.config import Schedule
from maskmill.trainers.engine.device import prepare
from maskmill.vision.segmenters import PACKAGED_ENCODER, encoder_normalisation, weights_stamp

MASKS = False  # it makes graphs
VERSION = 2
_RELEASE: dict[str, Any] = {
    "steps": 31_740,  # 12 epochs of 10,582 images, the last and smaller batch left out
    "batch": 4,
    "optimizer": "sgd",
    "lr": 0.1,  # of the head; the encoder's is a tenth
    "momentum": 0.0005,  # the released helper hands the weight decay to SGD's momentum
    "weight_decay": 5e-4,
    "schedule": "poly",
    "precision": "fp32",
    "augment": AugmentConfig(size=448, fit="native", brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1),
    "widths": (64, 128, 256),
    "frozen": False,
    "frozen_parts": True,
    "encoder_lr_factor": 0.1,
    "head_norms": False,
    "nodes": "levels",
    "cells": "released",
    "class_weight": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {"faithful": _RELEASE, "starter": {}}


class Config(TrainerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`, for small models and machines."""

    presets: ClassVar = PRESETS
    later: ClassVar[Mapping[str, Any]] = {
        **TrainerConfig.later,
        "frozen_parts": False,
        "head_norms": True,
        "nodes": "balanced",
        "cells": "area",
    }
    preset: Literal["faithful", "starter"] = Field(
        default="starter",
        description="values for all that is not given: faithful = the release, starter = for small machines",
    )
    steps: int = Field(default=300, ge=1, description="optimiser steps of the whole training")
    batch: int = Field(default=6, ge=1, description="samples a step")
    lr: float = Field(default=2e-3, gt=0, description="highest learning rate, reached after warm-up")
    schedule: Schedule = Field(
        default="poly",
        description="how the learning rate falls after warm-up; triangle rises to the middle and falls again",
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(size=192, fit="native", scale=(0.8, 1.25)),
        description="how an image becomes a training crop",
    )
    encoder: str = Field(default=PACKAGED_ENCODER, description="timm encoder that dilates to stride 8")
    weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    widths: tuple[int, ...] = Field(
        default=(16, 32, 64), min_length=1, description="channels of the embedding, one number a level of features"
    )
    frozen: bool = Field(default=True, description="keep the encoder as it is")
    frozen_parts: bool = Field(
        default=False,
        description="of an encoder that learns, keep what lies before its first level of stride 4, and every norm's "
        "scale and shift, as released",
    )
    head_norms: bool = Field(
        default=True, description="a batch norm on each level before the head; the release has none"
    )
    nodes: Nodes = Field(
        default="balanced",
        description="what nodes hold: the encoder's levels as they are (levels, as released), or levels of one mean "
        "length and the cells' colours (balanced)",
    )
    cells: Cells = Field(
        default="area",
        description="how pixels become cells: area = labels of the middle pixel, mean colours, borders repeated; "
        "released = first pixel, bilinear colours, zeros beyond the image, which count as background in the pair loss",
    )
    views: int = Field(default=3, ge=1, description="augmented views of each photo; a frozen encoder sees each once")
    encoder_lr_factor: float = Field(default=0.1, ge=0, description="learning rate of the encoder as a share of `lr`")
    radius: int = Field(default=4, ge=1, description="of the window in which cells are compared, in cells of 8 pixels")
    gated_weight: float = Field(
        default=3.0, ge=0, description="weight of the regulariser that needs no labels (gated CRF)"
    )
    class_weight: float = Field(default=1.0, ge=0, description="weight of the class maps' loss; the release has none")


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.encoder, config.weights),)


def train(config: Config, job: Job) -> str:
    """Train on samples whose mask is a seed map (255 = nobody knows); returns the artifact's folder."""
    if config.augment.size % STRIDE:
        raise ValueError(f"augment.size: expected a multiple of {STRIDE}, found {config.augment.size}")
    background = job.space.background_id
    if background is None:
        raise ValueError(f"label space {job.space.name}: the affinity network needs a background id, found none")
    mean, std = encoder_normalisation(config.encoder)
    classes = max(job.space.size, 2)

    torch.manual_seed(config.seed)
    model = build(config, config.weights, classes)
    optimizer = make_optimizer(config, groups(config, model))
    source = make_source(config, job, model, SegmentationView(config.augment, mean, std, classes))
    modules = {"head": model.head} if config.frozen else {"head": model.head, "encoder": model.encoder}
    loop = Loop(config, job, source, modules=modules, optimizers={"main": optimizer})
    model.to(loop.device)

    model.train()
    for _, batch in loop:
        with loop.autocast():
            levels = encoded_levels(batch) if config.frozen else model.encode(batch["image"])
            embedding, logits = model.head(levels)
        grid = (int(embedding.shape[2]), int(embedding.shape[3]))
        labels, valid, kernel = (
            (batch["labels"], batch["valid"], batch["kernel"])
            if config.frozen
            else cell_targets(batch, grid, config.radius, config.cells)
        )
        pairs, gated = embedding_losses(config, embedding.float(), labels, valid, kernel, background)
        known = class_loss(logits.float(), labels) if config.class_weight else pairs.new_zeros(())
        loss = pairs + config.gated_weight * gated + config.class_weight * known
        loop.update(loss)
        loop.log(loss=loss, pairs=pairs, gated=gated, classes=known)

    return save_artifact(
        job,
        config,
        modules={"head": model.head, "encoder": model.encoder},  # whole, though frozen: graphs need nothing else then
        model={"classes": classes},
        metrics=loop.metrics,
        curves=loop.curves(),
        mean=mean,
        std=std,
    )


def build(config: Config, weights: str, classes: int) -> AffinityNet:
    """The network of these settings; `weights` are the encoder's first ones."""
    model = AffinityNet(
        config.encoder,
        weights,
        config.widths,
        classes,
        frozen=config.frozen,
        nodes=config.nodes,
        cells=config.cells,
        norms=config.head_norms,
        priors=config.class_weight > 0,
    )
    if config.frozen_parts and not config.frozen:
        freeze_as_released(model.encoder, config.encoder)
    return model


def groups(config: Config, model: AffinityNet) -> list[ParamGroup]:
    """What learns, and at which share of `lr`: the head at all of it, the encoder at `encoder_lr_factor`.

    With `frozen_parts` biases learn twice as fast and do not decay, as released.
    """
    if not config.class_weight:
        model.head.classify.requires_grad_(False)
    parts = [(model.head, 1.0), *([] if config.frozen else [(model.encoder, config.encoder_lr_factor)])]
    if not config.frozen_parts:
        return [group for part, factor in parts for group in param_groups(part, factor)]
    found = []
    for part, factor in parts:
        learnt = [p for p in part.parameters() if p.requires_grad]
        found.append(ParamGroup(tuple(p for p in learnt if p.ndim > 1), factor))
        found.append(ParamGroup(tuple(p for p in learnt if p.ndim == 1), 2 * factor, weight_decay=0.0))
    return found


def embedding_losses(
    config: Config, embedding: Tensor, labels: Tensor, valid: Tensor, kernel: Tensor, background: int
) -> tuple[Tensor, Tensor]:
    """Pair loss and gated loss of an embedding (B, E, h, w); labels, cells and kernel of `cell_targets`."""
    distance, inside = feature_distance(embedding, config.radius), pairs_inside(valid, config.radius)
    if config.cells == "released":
        pairs = released_pair_loss(embedding, labels, config.radius, background)
        return pairs, gated_loss(distance, kernel, inside, valid)
    return pair_loss(distance, labels, config.radius, background), gated_loss(distance, kernel, inside)


def make_source(config: Config, job: Job, model: AffinityNet, view: SegmentationView) -> SampleSource:
    """Images, or what a frozen encoder makes of them."""
    data = job.data.with_masks()
    if not config.frozen:
        return SampleSource(data, view, config.batch, config.seed)
    device, dtype = prepare(config)
    model.eval().to(device).to(memory_format=torch.channels_last)
    return EncodedSource(
        data,
        view,
        config.batch,
        config.seed,
        views=config.views,
        model=model,
        radius=config.radius,
        device=device,
        dtype=dtype,
    )


def load(artifact: Artifact, device: torch.device) -> AffinityPredictor:
    """The trained network, ready to make graphs."""
    info = artifact.info
    config = Config.model_validate(info.config)
    model = build(config, "random", info.model["classes"])
    artifact.load(head=model.head, encoder=model.encoder)
    model.to(device).to(memory_format=torch.channels_last)
    return AffinityPredictor(model, info.label_space, info.mean, info.std, config.radius, device)
