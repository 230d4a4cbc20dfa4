"""The frozen encoder: one a process for equal settings, dilated as timm or as the releases do."""

import functools
from typing import Any

import torch

from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.known import read_known
from maskmill.vision.segmenters import build_encoder


def encoder_of(config: Config, device: str) -> tuple[Any, list[int]]:
    """The frozen encoder of a config, one a process, and the channels of its levels."""
    weights, stride = config.encoder_weights, config.output_stride
    return _encoder(config.encoder, weights, stride, config.released_dilation, config.base_learner, device)


@functools.cache
def _encoder(
    name: str, weights: str, stride: int, dilated: bool, learner: str | None, device: str
) -> tuple[Any, list[int]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights, where there are no others, must be the same in every process
        encoder = fresh_encoder(name, weights if learner is None else "random", stride, dilated)
    if learner is not None:
        read_known(learner).into(encoder)
    encoder = encoder.eval().requires_grad_(False).to(device)
    return encoder, list(encoder.feature_info.channels())


def fresh_encoder(name: str, weights: str, stride: int, dilated: bool) -> Any:
    """An encoder to be trained or frozen, its blocks dilated as released where `dilated`."""
    encoder = build_encoder(name, weights, output_stride=stride)
    if dilated:
        dilate(encoder)
    return encoder


def dilate(encoder: Any) -> None:
    """Let every block of a ResNet's stages 3 and 4 dilate by 2 and 4, the first of each as well, as PFENet does.

    Raises:
        ValueError: an encoder without such stages.
    """
    for stage, dilation in (("layer3", 2), ("layer4", 4)):
        blocks = getattr(encoder, stage, None)
        if blocks is None:
            raise ValueError("released_dilation: expected a ResNet of timm's, found none; set released_dilation: false")
        for block in blocks:
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
