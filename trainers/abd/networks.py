"""The networks of a host: built, checked, and rid of what their decoders never read."""

import copy
from typing import Any

import torch
from torch import nn

from maskmill.trainers.abd.config import Config
from maskmill.trainers.abd.hosts import Networks
from maskmill.trainers.abd.swin_unet import SWIN_UNET, SwinUnet, load_swin
from maskmill.trainers.abd.unet import RELEASED, ReleasedUnet
from maskmill.trainers.engine import Rgb, check_crops
from maskmill.vision.segmenters import SegmenterConfig, build_segmenter, segmenter_normalisation, weights_stamp


def build_networks(config: Config, classes: int) -> Networks:
    """The host's networks at their start. BCP's teacher and the copied student begin for good after the first phase.

    Raises:
        ValueError: an unknown network, or crops of a size that one cannot take.
    """
    torch.manual_seed(config.seed)
    first = rebuild(config.network, classes)
    second = None
    if config.two_networks:
        torch.manual_seed(config.seed + 1)
        second = rebuild(config.partner, classes)
    for network in (first, second):
        if network is not None:
            check_crops(network, config.augment.size, "the networks")
    hold(config, first, second)
    teacher = copy.deepcopy(first).requires_grad_(False) if config.host == "bcp" else None
    return Networks(first, second, teacher)


def hold(config: Config, first: nn.Module | None, second: nn.Module | None) -> None:
    """Freeze what the config freezes of the encoders that begin with learnt weights."""
    for network, wanted in ((first, config.network), (second, config.partner)):
        if network is not None and weights_stamp(wanted.encoder, wanted.weights) != "random":
            freeze(network, config.frozen_stages, depthwise=config.frozen_depthwise)


def rebuild(config: SegmenterConfig, classes: int) -> nn.Module:
    """The segmenter of a config, trimmed, or one of the release's own: its U-Net and Swin-Unet."""
    if config.architecture == RELEASED:
        return ReleasedUnet(classes, **config.options)
    if config.architecture == SWIN_UNET:
        swin = SwinUnet(classes, **config.options)
        load_swin(swin, config.weights)
        return swin
    return trim(build_segmenter(config, classes))


def input_normalisation(config: Config) -> tuple[Rgb, Rgb]:
    """(mean, std) of both networks' input: grey values in [0, 1] as they are for the release's U-Net, else those of
    network 1's encoder.
    """
    if config.network.architecture == RELEASED:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return segmenter_normalisation(config.network)


def trim(model: nn.Module) -> nn.Module:
    """Drop the stages behind the last feature that the decoder reads: with a lower `encoder_depth` timm's EfficientNets
    would compute them all the same, and leave them untrained.
    """
    encoder: Any = getattr(model, "encoder", None)
    body = getattr(encoder, "model", None)
    taps, blocks = getattr(body, "_stage_out_idx", None), getattr(body, "blocks", None)
    if isinstance(taps, dict) and isinstance(blocks, nn.Sequential):
        del blocks[max(taps) :]
    return model


def freeze(model: Any, stages: int, *, depthwise: bool) -> None:
    """Keep the first `stages` stages of a pre-trained encoder (the stem and what it runs next) as they are, norms too,
    and with `depthwise` all its depthwise filters: on CPUs their gradients cost most.

    To be called again after `train()`, which would set the norms going.

    Raises:
        ValueError: an encoder whose stages are not known.
    """
    body = getattr(model.encoder, "model", None)
    if stages:
        parts: list[Any] = [getattr(body, name, None) for name in ("conv_stem", "bn1", "blocks")]
        if None in parts:
            raise ValueError(
                "frozen_stages: expected an encoder of timm's EfficientNet kind, found one without conv_stem, bn1 and "
                "blocks; set frozen_stages: 0"
            )
        stem, norm, blocks = parts
        for part in (stem, norm, *list(blocks)[: stages - 1]):
            part.requires_grad_(False).eval()
    if depthwise:
        for layer in model.encoder.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
                layer.weight.requires_grad_(False)
