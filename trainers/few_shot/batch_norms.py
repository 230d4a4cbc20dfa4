"""A frozen encoder whose batch norms are left in training mode, as in SCL's release: what it sees in an image depends
on the images beside it, and its running statistics drift, with which the finished network is tested.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskmill.trainers.engine.batches import Batch
from maskmill.trainers.few_shot.features import Featurizer
from maskmill.trainers.few_shot.kept import Features, Levels, Shot

NO_MASK = np.zeros((0, 0), np.uint8)  # the plain prior reads the grid's masks alone


@contextmanager
def norms_by_batch(module: nn.Module | None) -> Iterator[None]:
    """Inside, batch norms of a module use the statistics of their batch, which move the stored ones; None = of none."""
    norms = [] if module is None else [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    modes = [layer.training for layer in norms]
    for layer in norms:
        layer.train()
    try:
        yield
    finally:
        for layer, mode in zip(norms, modes, strict=True):
            layer.train(mode)


@torch.no_grad()
def seen_together(featurizer: Featurizer, batch: Batch) -> Batch:
    """A batch of pixels, as `EpisodeSource` gives it with `encoder_norms: batch`, as one of features and priors.

    All queries (B, 3, S, S) pass the encoder together, then the n-th supports (B, K, 3, S, S) of all episodes. With
    `mask_stage` the last stage sees the supports' objects alone, and so do its statistics.
    """
    encoder, masks = featurizer.encoder, batch["masks"]
    with norms_by_batch(encoder):
        queries = featurizer.levels(batch["query"])
    shots = [_supports(featurizer, pixels, masks[:, k]) for k, pixels in enumerate(batch["supports"].unbind(1))]
    priors = []
    for i, levels in enumerate(_each(queries)):
        shown = [Shot(Features(each[i], None), NO_MASK, masks[i, k]) for k, each in enumerate(map(_each, shots))]
        priors.append(featurizer.priors(Features(levels, None), shown, 0))
    supports = torch.stack([middle for middle, _ in shots], dim=1)
    return {**batch, "query": queries[0], "supports": supports, "priors": torch.stack(priors)}


def _supports(featurizer: Featurizer, pixels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """`Featurizer.levels` of supports (B, 3, S, S) with masks (B, 1, h, w)."""
    encoder = featurizer.encoder
    if not featurizer.config.mask_stage:
        with norms_by_batch(encoder):
            return featurizer.levels(pixels)
    stages = nn.ModuleList(part for name, part in encoder.named_children() if name != "layer4")
    with norms_by_batch(stages):
        middle, _ = featurizer.levels(pixels)
    with norms_by_batch(encoder.layer4):
        return middle, featurizer.last_stage(middle, masks)


def _each(levels: tuple[Tensor, Tensor]) -> list[Levels]:
    return [Levels(middle, high) for middle, high in zip(*levels, strict=True)]
