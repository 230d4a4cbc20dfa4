"""SCWSSOD, top to bottom: settings, network, coherence and consistency, loop, artifact."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, LabelSpace
from maskmill.trainers.engine import (
    Artifact,
    ArtifactInfo,
    Batch,
    Job,
    ParamGroup,
    PredictConfig,
    Samples,
    SegmentationPredictor,
    param_groups,
    widened,
)
from maskmill.trainers.engine.saliency import SaliencyMetrics, to_map
from maskmill.trainers.scribbles import ScribbleRun, balanced_pce
from maskmill.trainers.scwssod.config import Config, SmallNorm
from maskmill.trainers.scwssod.losses import (
    coherence,
    coherence_kernel,
    repository_coherence,
    shrink,
    structure_consistency,
)
from maskmill.trainers.scwssod.model import BinaryLogits, SaliencyNet
from maskmill.vision.segmenters import build_encoder, weights_stamp

VERSION = 3


def evaluate(predictor: SegmentationPredictor, samples: Samples, info: ArtifactInfo) -> dict[str, Any]:
    """The measures of saliency, of the object's probability at each image's own size."""
    return measure(predictor, samples)


def measure(predictor: SegmentationPredictor, samples: Samples) -> dict[str, Any]:
    """S, E, F and MAE of a predictor's saliency on samples with masks."""
    truth, metrics = samples.with_masks(), SaliencyMetrics()
    for position in range(len(truth)):
        example = truth.example(position)
        if example.mask is not None:
            (found,) = predictor.predict([example.image])
            metrics.update(to_map(found.probabilities[1]), example.mask, predictor.space.background_id or 0)
    return dict(metrics.compute())


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.encoder, config.encoder_weights),)


def build(config: Config, weights: str) -> SaliencyNet:
    """The network over an encoder with `weights` (see `vision.segmenters`)."""
    encoder = build_encoder(config.encoder, weights, out_indices=(1, 2, 3, 4))
    return SaliencyNet(encoder, config.width, config.fusion, config.gate, floor=config.gate_floor)


def artifact_of(model: SaliencyNet, config: Config) -> dict[str, Any]:
    """What the artifact of a trained network holds: arguments of `save_artifact`."""
    mean, std = config.colours
    predict = PredictConfig(fit=config.augment.fit, size=config.augment.size, multiple=1)
    described = {"encoder": config.encoder, "width": config.width, "fusion": config.fusion, "gate": config.gate}
    return {"modules": {"model": model}, "model": described, "mean": mean, "std": std, "predict": predict}


def train(config: Config, job: Job) -> str:
    """Train on foreground and background scribbles (or on masks, the upper bound); returns the artifact's folder."""
    check(job.space)
    torch.manual_seed(config.seed)
    model = build(config, config.encoder_weights)
    run = ScribbleRun(
        config,
        job,
        config.colours,
        modules={"model": model},
        groups=optimised(model, config.encoder_lr_factor),
        network=BinaryLogits(model),
        resize=config.scribble_resize,
        multiple=1,
        measure=measure,
    )

    for step, batch in run.loop:
        ramp = config.ramp_at(step)
        with run.loop.autocast():
            heads = [widened(z) for z in model(batch["image"])]
        notes = {"aggm_denominator": model.smallest_denominator} if _watched(config) else {}
        labels = batch["labels"]
        if config.supervision == "masks":
            loss = sum_heads(config, [dense_ce(z, labels) for z in heads])
        else:
            loss, parts = scribble_loss(config, heads, labels, batch, ramp)
            notes |= parts
            if config.ssc_weight:
                with run.loop.autocast():
                    notes["consistency"] = consistency(config, model, heads[0], batch["image"])
                loss = loss + ramp * config.ssc_weight * notes["consistency"]
        run.learn(loss, **notes)
    return run.save(model, artifact_of(model, config)["model"])


def optimised(model: SaliencyNet, encoder_factor: float) -> list[ParamGroup]:
    """The encoder at its own rate, all else at the full one."""
    rest = nn.ModuleList(child for name, child in model.named_children() if name != "encoder")
    return [*param_groups(model.encoder, encoder_factor), *param_groups(rest)]


def consistency(config: Config, model: SaliencyNet, main: Tensor, images: Tensor) -> Tensor:
    """SSC of the main head's logits (N, 1, H, W) and a second pass over the same images, made smaller."""
    with _norms(model, config.ssc_norm):
        small = widened(model(shrink(images, config.ssc_scale))[0]).sigmoid()
    large = shrink(widened(main).sigmoid(), config.ssc_scale)
    return structure_consistency(small, large, config.ssc_alpha)


def check(space: LabelSpace) -> None:
    """Raise ValueError unless the label space is one foreground class with id 1 over background 0."""
    if space.ids != (1,) or space.background_id != 0:
        raise ValueError(
            f"label space {space.name}: scwssod tells one foreground (id 1) from background (id 0), found classes "
            f"{space.ids} over {space.background_id}. Fix: label_space: foreground, or train `dfr`"
        )


def sum_heads(config: Config, losses: list[Tensor]) -> Tensor:
    """Weighted sum over heads 2, 3, 4, 5."""
    return torch.stack([w * loss for w, loss in zip(config.head_weights, losses, strict=True)]).sum()


def dense_ce(z: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels that are not 255: logits (N, 1, H, W) against (N, H, W)."""
    judged = labels != IGNORE
    losses = F.binary_cross_entropy_with_logits(z[:, 0], (labels == 1).float(), reduction="none")
    return (losses * judged).sum() / judged.sum().clamp(min=1)


def scribble_loss(
    config: Config, heads: list[Tensor], labels: Tensor, batch: Batch, ramp: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Partial cross-entropy and coherence of all heads, weighted, and both sums alone; `ramp` scales the coherence."""
    pce = sum_heads(config, [balanced_pce(z, labels, config.pce) for z in heads])
    if not config.lsc_weight:
        return pce, {"pce": pce}
    image = shrink(batch["plain"], config.lsc_scale)
    maps = shrink(torch.cat([z.sigmoid() for z in heads], dim=1), config.lsc_scale)
    weights = config.head_weights if config.lsc_heads == "all" else (config.head_weights[0], 0.0, 0.0, 0.0)
    where = (config.lsc_radius, config.xy_sigma_cells, config.colour_sigma_normalised)
    if config.lsc_form == "repository":
        terms = [repository_coherence(maps[:, n : n + 1], image, *where, divisions=n + 1) for n in range(len(heads))]
        lsc = torch.stack([w * term for w, term in zip(weights, terms, strict=True)]).sum()
    else:
        lsc = coherence(maps, coherence_kernel(image, *where), config.lsc_radius, weights)
    return pce + ramp * config.lsc_weight * lsc, {"pce": pce, "coherence": lsc}


def _watched(config: Config) -> bool:
    return config.fusion == "aggm" and config.gate != "softmax"


@contextlib.contextmanager
def _norms(model: nn.Module, how: SmallNorm) -> Iterator[None]:
    """Inside, BatchNorm leaves its running statistics alone: with `frozen` it uses them, with `own` the batch's."""
    found = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training and m.track_running_stats]
    norms = [] if how == "shared" else found
    for norm in norms:
        norm.training, norm.track_running_stats = how == "own", how == "frozen"
    try:
        yield
    finally:
        for norm in norms:
            norm.training = norm.track_running_stats = True


def load(artifact: Artifact, device: torch.device) -> SegmentationPredictor:
    """The trained saliency network; its softmax over (background, foreground) is the raw saliency."""
    info = artifact.info
    config = Config.model_validate(info.config)
    model = build(config, "random")
    artifact.load(model=model)
    return SegmentationPredictor(
        BinaryLogits(model.to(device)), info.label_space, info.mean, info.std, info.predict, device
    )
