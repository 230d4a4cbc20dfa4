"""Supervised segmentation, top to bottom: settings, model, data, loop, artifact."""

import functools
from typing import Any, ClassVar

import torch
from pydantic import Field

from maskmill.trainers.engine import (
    AugmentConfig,
    Job,
    Loop,
    PredictConfig,
    SampleSource,
    SegmentationPredictor,
    SegmentationView,
    TrainerConfig,
    check_crops,
    describe_segmenter,
    evaluate,
    make_optimizer,
    save_artifact,
    segmenter_groups,
)
from maskmill.trainers.supervised.losses import Balance, class_weights, cross_entropy, dice_loss
from maskmill.vision.released_deeplab import ReleasedDeepLab
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter, segmenter_normalisation, segmenter_stamp

VERSION = 2


class Config(TrainerConfig):
    """Settings of `supervised`."""

    later: ClassVar = {**TrainerConfig.later, "auxiliary": 0.0}
    segmenter: SegmenterConfig = Field(default=SegmenterConfig(), description="network that is trained")
    augment: AugmentConfig = Field(
        default=AugmentConfig(scale=(0.75, 1.5), brightness=0.2, contrast=0.2, saturation=0.2),
        description="how an image becomes a training crop",
    )
    # learning rate of the encoder as a share of `lr`; 0 freezes it, its statistics as well, which halves a step's cost
    encoder_lr_factor: float = Field(
        default=1.0,
        ge=0,
        description="learning rate of the encoder as a share of `lr`; 0 freezes it, its statistics as well, which "
        "halves a step's cost",
    )
    class_balance: Balance = Field(
        default="sqrt", description="weight of a class in the loss: none = 1; sqrt, median = the rarer, the higher"
    )
    dice: float = Field(default=0.0, ge=0, description="weight of the Dice loss beside cross-entropy")
    auxiliary: float = Field(
        default=0.0,
        ge=0,
        description="weight of the loss of an auxiliary head, which deeplabv3_mmseg has; 0 = not used",
    )
    min_confidence: float = Field(
        default=0.0, ge=0, le=1, description="pseudo-label pixels with less confidence, as a share, are ignored"
    )


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (segmenter_stamp(config.segmenter),)


def train(config: Config, job: Job) -> str:
    """Train on the samples that have a mask; returns the artifact's folder."""
    classes = max(job.space.size, 2)
    mean, std = segmenter_normalisation(config.segmenter)

    torch.manual_seed(config.seed)
    model: Any = build_segmenter(config.segmenter, classes)
    check_crops(model, config.augment.size, config.segmenter.architecture)
    check_auxiliary(config, model)
    encoder: Any = model.encoder
    frozen = config.encoder_lr_factor == 0
    encoder.requires_grad_(not frozen)
    optimizer = make_optimizer(config, segmenter_groups(model, config.encoder_lr_factor))

    data = job.data.with_masks()
    pseudo = bool(data.config.labels) and config.min_confidence > 0
    view = SegmentationView(config.augment, mean, std, classes, extras=("confidence",) if pseudo else ())
    source = SampleSource(data, view, config.batch, config.seed)

    loop = Loop(config, job, source, modules={"model": model}, optimizers={"main": optimizer})
    predict = PredictConfig(fit=config.augment.fit, size=config.augment.size)
    predictor = SegmentationPredictor(model, job.space, mean, std, predict, loop.device)
    score = None if job.val is None else functools.partial(evaluate, predictor.labels, job.val, job.space)
    weights = class_weights(data, classes, config.class_balance)
    weights = None if weights is None else weights.to(loop.device)

    model.train()
    encoder.train(not frozen)
    for _, batch in loop:
        target = batch["mask"]
        if pseudo:
            target = target.masked_fill(batch["confidence"] < config.min_confidence, 255)
        with loop.autocast():
            logits, beside = model.with_auxiliary(batch["image"]) if config.auxiliary else (model(batch["image"]), None)
        loss = cross_entropy(logits, target, weights)
        if beside is not None:
            loss = loss + config.auxiliary * cross_entropy(beside, target, weights)
        if config.dice:
            loss = loss + config.dice * dice_loss(logits, target)
        loop.update(loss)
        loop.log(loss=loss)
        loop.evaluate(score)

    return save_artifact(
        job,
        config,
        modules={"model": model},
        model=describe_segmenter(config.segmenter, classes, model),
        metrics=loop.metrics,
        curves=loop.curves(),
        mean=mean,
        std=std,
        predict=predict,
    )


def check_auxiliary(config: Config, model: Any) -> None:
    """Raise ValueError where an auxiliary head is to be trained and the network has none."""
    if config.auxiliary and not isinstance(model, ReleasedDeepLab):
        raise ValueError(
            f"auxiliary: expected a network with an auxiliary head, found {config.segmenter.architecture}; set "
            "segmenter.architecture=deeplabv3_mmseg, or auxiliary=0"
        )
