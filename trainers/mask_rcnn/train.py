"""Training of Mask R-CNN, top to bottom: settings, network, crops with objects, loop, artifact."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from maskmill.trainers.engine import (
    Artifact,
    ArtifactInfo,
    AugmentConfig,
    Job,
    Loop,
    ParamGroup,
    Samples,
    TrainerConfig,
    make_optimizer,
    param_groups,
    save_artifact,
)
from maskmill.trainers.mask_rcnn.net import NetworkConfig, build_network
from maskmill.trainers.mask_rcnn.predict import InstancePredictor, judged
from maskmill.trainers.mask_rcnn.views import ObjectSource
from maskmill.vision.segmenters import encoder_normalisation, weights_stamp

MASKS = False  # it finds objects; `evaluate` measures them
VERSION = 1


class Config(TrainerConfig):
    """Settings of `mask_rcnn`."""

    batch: int = Field(default=4, ge=1, description="crops a step")
    lr: float = Field(default=1e-3, gt=0, description="highest learning rate, reached after warm-up")
    grad_clip: float | None = Field(
        default=5.0, gt=0, description="largest L2 norm of all gradients together; null = not clipped"
    )
    encoder_lr_factor: float = Field(default=0.1, ge=0, description="learning rate of the encoder as a share of `lr`")
    network: NetworkConfig = Field(default=NetworkConfig(), description="which network, and what comes out of it")
    augment: AugmentConfig = Field(
        default=AugmentConfig(size=320, scale=(0.75, 1.5)),
        description="how crops are drawn; photos reach the trained network with a short side of `size`",
    )
    slots: int = Field(default=24, ge=1, description="objects of a crop that are learnt from, largest first")


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.network.encoder, config.network.weights),)


def train(config: Config, job: Job) -> str:
    """Train on every sample whose objects are told apart. Returns the artifact's folder.

    Raises:
        ValueError: a sample whose objects are not.
    """
    mean, std = encoder_normalisation(config.network.encoder)
    data = job.data.with_masks()
    torch.manual_seed(config.seed)
    net = build_network(config.network, len(job.space.ids), config.augment.size, mean, std)
    encoder = net.backbone.encoder
    rest: list[nn.Parameter] = [p for name, p in net.named_parameters() if not name.startswith("backbone.encoder.")]
    groups = [*param_groups(encoder, config.encoder_lr_factor), ParamGroup(tuple(rest))]
    source = ObjectSource(data, job.space, config.augment, config.slots, mean, config.batch, config.seed)
    loop = Loop(config, job, source, modules={"net": net}, optimizers={"main": make_optimizer(config, groups)})
    net.train()
    encoder.eval()  # norms keep ImageNet's statistics: batches are small
    val = None if job.val is None else job.val.with_masks()
    for _, batch in loop:
        with loop.autocast():
            losses = net(list(batch["image"]), targets(batch))
        total: Tensor = torch.stack(list(losses.values())).sum()
        loop.update(total)
        loop.log(loss=total, **losses)
        loop.evaluate(None if val is None else lambda: judged(InstancePredictor(net, job.space, loop.device), val))
    return save_artifact(
        job,
        config,
        modules={"net": net},
        model={"network": {**config.network.model_dump(mode="json"), "weights": "random"}},
        metrics=loop.metrics,
        curves=loop.curves(),
        mean=mean,
        std=std,
    )


def targets(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """What torchvision's losses take: boxes, labels and masks of each crop without the empty slots."""
    found = []
    for boxes, labels, masks in zip(batch["boxes"], batch["labels"], batch["objects"], strict=True):
        shown = labels > 0
        found.append({"boxes": boxes[shown], "labels": labels[shown], "masks": masks[shown]})
    return found


def evaluate(predictor: InstancePredictor, samples: Samples, info: ArtifactInfo) -> dict[str, Any]:
    """COCO's average precision on samples whose objects are told apart."""
    return judged(predictor, samples)


def load(artifact: Artifact, device: torch.device) -> InstancePredictor:
    """The trained network, ready to find objects."""
    info = artifact.info
    side = Config.model_validate(info.config).augment.size
    network = NetworkConfig.model_validate(info.model["network"])
    net = build_network(network, len(info.label_space.ids), side, info.mean, info.std)
    artifact.load(net=net)
    return InstancePredictor(net.to(device).eval(), info.label_space, device)
