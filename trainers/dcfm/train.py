"""Co-salient object detection, top to bottom: groups, network, losses, artifact."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.trainers.dcfm.config import Config
from maskmill.trainers.dcfm.consensus import Consensus, consensus_of
from maskmill.trainers.dcfm.losses import deep_loss, soft_iou
from maskmill.trainers.dcfm.model import Dcfm, Output
from maskmill.trainers.dcfm.predict import GroupPredictor, score_groups
from maskmill.trainers.dcfm.prototypes import self_contrast
from maskmill.trainers.engine import (
    Artifact,
    ArtifactInfo,
    GroupSource,
    Job,
    Loop,
    ParamGroup,
    PredictConfig,
    Samples,
    SegmentationView,
    make_optimizer,
    param_groups,
    save_artifact,
    widened,
)
from maskmill.vision.segmenters import encoder_normalisation, weights_stamp

VERSION = 4


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.encoder, config.encoder_weights),)


def train(config: Config, job: Job) -> str:
    """Train on whole groups of samples with masks; returns the artifact's folder. Every class in a mask is object."""
    if job.space.background_id is None:
        raise ValueError(f"label space {job.space.name}: dcfm needs a background id, found none; set background_id")
    mean, std = encoder_normalisation(config.encoder)

    torch.manual_seed(config.seed)
    model = Dcfm(config)
    optimizer = make_optimizer(config, optimised(model, config.encoder_lr_factor))

    view = SegmentationView(config.augment, mean, std, 256)
    source = GroupSource(job.data.with_masks(), view, config.batch, config.members, config.seed)
    loop = Loop(config, job, source, modules={"model": model}, optimizers={"main": optimizer})
    consensus = consensus_of(config)
    described = artifact_of(model, config, consensus)
    where = (described["predict"], loop.device)
    predictor = GroupPredictor(model, job.space, mean, std, *where, resize=config.test_resize, consensus=consensus)
    score = None if job.val is None else functools.partial(score_groups, predictor, job.val)

    model.train()
    for _, batch in loop:
        mates = batch["group"][:, None] == batch["group"][None]
        with loop.autocast():
            features = model.encode(batch["image"])
            output = model.decode(features, mates)
        losses = compute_losses(config, model, features, output, batch["mask"], job.space.background_id, mates)
        loop.update(losses["loss"])
        loop.log(**losses)
        loop.evaluate(score)

    return save_artifact(job, config, metrics=loop.metrics, curves=loop.curves(), **described)


def artifact_of(model: Dcfm, config: Config, consensus: Consensus | None = None) -> dict[str, Any]:
    """What the artifact of a trained network holds: arguments of `save_artifact`."""
    mean, std = encoder_normalisation(config.encoder)
    predict = PredictConfig(fit="squash", size=config.augment.size)
    modules = {"model": model, **({} if consensus is None else {"consensus": consensus})}
    return {"modules": modules, "model": {}, "mean": mean, "std": std, "predict": predict}


def optimised(model: Dcfm, encoder_factor: float) -> list[ParamGroup]:
    """Trained layers of the encoder at their own rate, all else at the full one."""
    encoder = param_groups(model.encoder, encoder_factor)
    inside = {id(p) for p in model.encoder.parameters()}
    rest = tuple(p for p in model.parameters() if p.requires_grad and id(p) not in inside)
    return [*encoder, ParamGroup(rest)]


def compute_losses(
    config: Config, model: Dcfm, features: list[Tensor], output: Output, mask: Tensor, background: int, mates: Tensor
) -> dict[str, Tensor]:
    """`loss` and its parts. `mask` int64 (N, H, W), 255 = counts for nothing."""
    dtype = widened(output.logits[0]).dtype
    valid = (mask != 255).to(dtype)[:, None]
    target = (mask != background).to(dtype)[:, None] * valid
    parts = {"iou": deep_loss(output.logits, target, valid)}
    loss = parts["iou"]
    if output.mined is not None and config.response_weight:
        grid = output.mined.response.shape[2], output.mined.response.shape[3]
        small = [F.adaptive_avg_pool2d(m, grid) for m in (target, valid)]
        shown = small[0].sum(dim=(1, 2, 3)) > 0  # a crop that lost its object has no response to ask for
        parts["response"] = (soft_iou(output.mined.response, *small) * shown).mean()
        loss = loss + config.response_weight * parts["response"]
    if config.uses_scl and output.mined is not None:
        inside, outside = model.prototypes(features, target, mates)
        parts["scl"] = self_contrast(output.mined.prototype, inside, outside, mates)
        loss = loss + config.scl_weight * parts["scl"]
    return {"loss": loss, **parts}


def evaluate(predictor: GroupPredictor, samples: Samples, info: ArtifactInfo) -> dict[str, Any]:
    """The measures of co-saliency, each group predicted whole."""
    return dict(score_groups(predictor, samples))


def load(artifact: Artifact, device: torch.device) -> GroupPredictor:
    """The trained network, ready to predict groups."""
    info = artifact.info
    config = Config.model_validate({**info.config, "encoder_weights": "random"})
    model = Dcfm(config)
    consensus = consensus_of(config)
    artifact.load(model=model, **({} if consensus is None else {"consensus": consensus}))
    how = (info.mean, info.std, info.predict, device)
    return GroupPredictor(model, info.label_space, *how, resize=config.test_resize, consensus=consensus)
