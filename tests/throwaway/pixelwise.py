"""A throw-away trainer: one convolution."""

import torch

from maskmill.trainers.engine import (
    Artifact,
    AugmentConfig,
    Job,
    Loop,
    SampleSource,
    SegmentationPredictor,
    SegmentationView,
    TrainerConfig,
    make_optimizer,
    save_artifact,
)
from maskmill.trainers.engine.batches import IMAGENET_MEAN, IMAGENET_STD

VERSION = 1


class Config(TrainerConfig):
    """Its settings."""

    augment: AugmentConfig = AugmentConfig(size=32)


def stamps(config: Config) -> tuple[str, ...]:
    return ()


def train(config: Config, job: Job) -> str:
    torch.manual_seed(config.seed)
    model = torch.nn.Conv2d(3, job.space.size, 1)
    view = SegmentationView(config.augment, IMAGENET_MEAN, IMAGENET_STD, job.space.size)
    source = SampleSource(job.data.with_masks(), view, config.batch, config.seed)
    loop = Loop(
        config,
        job,
        source,
        modules={"model": model},
        optimizers={"main": make_optimizer(config, model.parameters())},
    )
    for _, batch in loop:
        loss = torch.nn.functional.cross_entropy(model(batch["image"]), batch["mask"], ignore_index=255)
        loop.update(loss)
        loop.log(loss=loss)
    model_facts = {"classes": job.space.size}
    return save_artifact(
        job, config, modules={"model": model}, model=model_facts, metrics=loop.metrics, curves=loop.curves()
    )


def load(artifact: Artifact, device: torch.device) -> SegmentationPredictor:
    info = artifact.info
    model = torch.nn.Conv2d(3, info.model["classes"], 1)
    artifact.load(model=model)
    return SegmentationPredictor(model.to(device), info.label_space, info.mean, info.std, info.predict, device)
