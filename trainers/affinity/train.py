"""Training of the affinity network from seeds, top to bottom: settings, model, data, loop, artefact."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from maskmill.trainers.affinity.cells import EncodedSource, cell_targets, encoded_levels
from maskmill.trainers.affinity.losses import class_loss, gated_loss, pair_loss
from maskmill.trainers.affinity.model import STRIDE, AffinityNet
from maskmill.trainers.affinity.pairs import feature_distance, pairs_inside
from maskmill.trainers.affinity.predict import AffinityPredictor
from maskmill.trainers.engine import (
    Artifact,
    AugmentConfig,
    Job,
    Loop,
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

VERSION = 2
_RELEASE: dict[str, Any] = {
    "steps": 31_700,
    "batch": 4,
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.0005,  # the released helper hands the weight decay to SGD's momentum
    "weight_decay": 5e-4,
    "schedule": "poly",
    "augment": AugmentConfig(size=448, fit="native", brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1),
    "widths": (64, 128, 256),
    "frozen": False,
    "encoder_lr_factor": 0.1,
    "class_weight": 0.0,
}
PRESETS: dict[str, dict[str, Any]] = {"faithful": _RELEASE, "starter": {}}


class Config(TrainerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`, for small models and machines."""

    presets: ClassVar = PRESETS
    preset: Literal["faithful", "starter"] = "starter"
    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=6, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    schedule: Schedule = "poly"
    augment: AugmentConfig = AugmentConfig(size=192, fit="native", scale=(0.8, 1.25))
    encoder: str = PACKAGED_ENCODER  # any timm encoder that dilates to stride 8
    weights: str = "auto"
    widths: tuple[int, ...] = Field(default=(16, 32, 64), min_length=1)  # of the embedding, one a level
    frozen: bool = True  # keep the encoder as it is
    views: int = Field(default=3, ge=1)  # of each photo, for a frozen encoder
    encoder_lr_factor: float = Field(default=0.1, ge=0)
    radius: int = Field(default=4, ge=1)  # of the window, in cells of 8 pixels
    gated_weight: float = Field(default=3.0, ge=0)
    class_weight: float = Field(default=1.0, ge=0)  # of the class logits' loss; the release has none


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.encoder, config.weights),)


def train(config: Config, job: Job) -> str:
    """Train on samples whose mask is a seed map (255 = nobody knows); returns the artefact's folder."""
    if config.augment.size % STRIDE:
        raise ValueError(f"augment.size: expected a multiple of {STRIDE}, found {config.augment.size}")
    background = job.space.background_id
    if background is None:
        raise ValueError(f"label space {job.space.name}: the affinity network needs a background id, found none")
    mean, std = encoder_normalisation(config.encoder)
    classes = max(job.space.size, 2)

    torch.manual_seed(config.seed)
    model = AffinityNet(config.encoder, config.weights, config.widths, classes, frozen=config.frozen)
    groups = [
        *param_groups(model.head),
        *([] if config.frozen else param_groups(model.encoder, config.encoder_lr_factor)),
    ]
    optimizer = make_optimizer(config, groups)
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
            else cell_targets(batch, grid, config.radius)
        )
        distance = feature_distance(embedding.float(), config.radius)
        pairs = pair_loss(distance, labels, config.radius, background)
        gated = gated_loss(distance, kernel, pairs_inside(valid, config.radius))
        known = class_loss(logits.float(), labels)
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
    model = AffinityNet(config.encoder, "random", config.widths, info.model["classes"], frozen=config.frozen)
    artifact.load(head=model.head, encoder=model.encoder)
    model.to(device).to(memory_format=torch.channels_last)
    return AffinityPredictor(model, info.label_space, info.mean, info.std, config.radius, device)
