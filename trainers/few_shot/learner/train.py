"""The base learner, top to bottom: network, labels without the held-out classes, loop, artifact.

Source: C. Lang et al., "Learning What Not to Segment" (BAM), CVPR 2022: PSPNet without its auxiliary classifier.
"""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, LabelSpace
from maskmill.trainers.engine import (
    Artifact,
    Example,
    Item,
    Job,
    Loop,
    ParamGroup,
    PredictConfig,
    SampleSource,
    SegmentationPredictor,
    SegmentationView,
    evaluate,
    make_optimizer,
    save_artifact,
)
from maskmill.trainers.few_shot.base import PyramidHead, resize
from maskmill.trainers.few_shot.encoder import fresh_encoder
from maskmill.trainers.few_shot.episodes import held_out
from maskmill.trainers.few_shot.learner.config import Config
from maskmill.vision.segmenters import encoder_normalisation, weights_stamp

VERSION = 1
NEVER = -1e4  # logit of a class that the learner does not know


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.encoder, config.encoder_weights),)


def base_classes(space: LabelSpace, config: Config) -> tuple[int, ...]:
    """Ids of the classes that are learnt, in ascending order."""
    novel = held_out(space, config.episodes)
    return tuple(i for i in sorted(space.ids) if i not in novel)


class LearnerNet(nn.Module):
    """Images (B, 3, H, W) to logits (B, space's classes, H, W); `known` gives those of background and base classes."""

    def __init__(self, config: Config, ids: tuple[int, ...], space: LabelSpace, weights: str) -> None:
        super().__init__()
        self.encoder = fresh_encoder(config.encoder, weights, config.output_stride, config.released_dilation)
        channels = self.encoder.feature_info.channels()[-1]
        self.head = PyramidHead(channels, 1 + len(ids), config.width)
        self.classes, self.places = max(space.size, 2), [background_of(space), *ids]

    def known(self, images: Tensor) -> Tensor:
        """(B, 1 + base classes, H, W)."""
        logits: Tensor = self.head(self.encoder(images)[-1])
        return resize(logits, (images.shape[2], images.shape[3]))

    def forward(self, images: Tensor) -> Tensor:
        known = self.known(images)
        full = known.new_full((known.shape[0], self.classes, *known.shape[2:]), NEVER)
        full[:, self.places] = known
        return full


def background_of(space: LabelSpace) -> int:
    """Raise ValueError for a space without a background."""
    if space.background_id is None:
        raise ValueError(f"label space {space.name}: base_learner needs a background id, found none")
    return space.background_id


class KnownView:
    """A `SegmentationView` whose mask holds the learner's channels: 0 = background and held-out, 255 = ignore."""

    def __init__(self, view: SegmentationView, ids: tuple[int, ...]) -> None:
        self.view = view
        self.channels = torch.zeros(256, dtype=torch.long)
        self.channels[IGNORE] = IGNORE
        self.channels[list(ids)] = torch.arange(1, 1 + len(ids))

    def __call__(self, example: Example, rng: np.random.Generator) -> Item:
        item = self.view(example, rng)
        return {**item, "mask": self.channels[item["mask"]]}


def train(config: Config, job: Job) -> str:
    """Train on all samples that have a mask; returns the artifact's folder."""
    ids = base_classes(job.space, config)
    mean, std = encoder_normalisation(config.encoder)
    torch.manual_seed(config.seed)
    net = LearnerNet(config, ids, job.space, config.encoder_weights)
    groups = [
        ParamGroup(tuple(net.encoder.parameters()), config.encoder_lr_factor),
        ParamGroup(tuple(net.head.parameters())),
    ]
    optimizer = make_optimizer(config, groups)
    view = KnownView(SegmentationView(config.augment, mean, std, max(job.space.size, 2)), ids)
    source = SampleSource(job.data.with_masks(), view, config.batch, config.seed)

    loop = Loop(config, job, source, modules={"net": net}, optimizers={"main": optimizer})
    predict = PredictConfig(fit=config.augment.fit, size=config.augment.size)
    predictor = SegmentationPredictor(net, job.space, mean, std, predict, loop.device)
    score = None if job.val is None else functools.partial(evaluate, predictor.labels, job.val, job.space)

    net.train()
    for _, batch in loop:
        with loop.autocast():
            logits = net.known(batch["image"])
        losses = F.cross_entropy(logits.float(), batch["mask"], ignore_index=IGNORE, reduction="sum")
        loss = losses / (batch["mask"] != IGNORE).sum().clamp(min=1)
        loop.update(loss)
        loop.log(loss=loss)
        loop.evaluate(score)

    return save_artifact(
        job,
        config,
        modules={"encoder": net.encoder, "head": net.head},
        model=describe(config, ids),
        metrics=loop.metrics,
        curves=loop.curves(),
        mean=mean,
        std=std,
        predict=predict,
    )


def describe(config: Config, ids: tuple[int, ...]) -> dict[str, Any]:
    """What the artifact says of the network beside its settings."""
    return {"ids": list(ids), "width": config.width}


def load(artifact: Artifact, device: torch.device) -> SegmentationPredictor:
    """A segmenter of the base classes; held-out ones it takes for background."""
    info = artifact.info
    config = Config.model_validate(info.config)
    net = LearnerNet(config, tuple(info.model["ids"]), info.label_space, "random")
    artifact.load(encoder=net.encoder, head=net.head)
    return SegmentationPredictor(net.to(device), info.label_space, info.mean, info.std, info.predict, device)
