"""Encoder, group part and decoder of DCFM in one network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.dcfm.config import Config
from maskmill.trainers.dcfm.enhance import FeatureEnhancement
from maskmill.trainers.dcfm.prototypes import Mined, PrototypeGeneration
from maskmill.trainers.engine import initialise, widened
from maskmill.vision.segmenters import build_encoder

RESPONSE_GAIN = 8.0  # brings the response channel to the size of the features beside it


@dataclass(frozen=True, eq=False)
class Output:
    """`logits`: a map (N, 1, h, w) a level of the decoder, finest first. `mined`: what the group part made; None in
    plain saliency.
    """

    logits: list[Tensor]
    mined: Mined | None = None


class Dcfm(nn.Module):
    """Images float32 (N, 3, H, W) and `mates` bool (N, N), true for pairs of one group, to co-saliency logits.

    Only the encoder's `trained_layers` are trained; its norms always use their stored statistics. `group` holds what
    the arms differ in. The group part and the step to the decoder run in fp32 under any autocast: DFE's weights do not
    fit fp16.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(
            config.encoder,
            config.encoder_weights,
            output_stride=config.output_stride,
            out_indices=config.feature_levels,
        )
        freeze(self.encoder, config.trained_layers)
        widths: list[int] = self.encoder.feature_info.channels()  # type: ignore[operator, union-attr]
        laterals, deepest = widths[:-1], sum(widths[-config.merged_levels :])
        channels = config.channels or deepest
        self.neck = neck(deepest, config)
        self.generation = PrototypeGeneration(channels, config.seeds, config.clip) if config.uses_group else None
        self.enhancement = FeatureEnhancement(channels, config.enhancement) if config.uses_enhancement else None
        compared = widths[-config.merged_levels] if config.merged_levels > 1 else channels
        compares = config.uses_group and config.seeds == "matches"
        self.matching = nn.BatchNorm2d(compared, affine=False) if compares else None
        self.decoder = Decoder(channels + int(config.uses_group and config.response_channel), laterals, config)
        initialise(self)
        if self.enhancement is not None and config.enhancement == "normalised":
            self.enhancement.silence_links()

    def train(self, mode: bool = True) -> "Dcfm":
        """The encoder's norms keep their statistics in both modes."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Tensor, mates: Tensor) -> Output:
        return self.decode(self.encode(images), mates)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Feature maps, finest first, without the encoder's last, and x5. Needs no group, so it may go in pieces."""
        features: list[Tensor] = self.encoder(images)
        grid, *coarser = features[-self.config.merged_levels :]
        enlarged = [F.interpolate(one, grid.shape[2:], mode="bilinear", align_corners=False) for one in coarser]
        return [*features[:-1], self.neck(torch.cat([grid, *enlarged], dim=1))]

    def decode(self, features: Sequence[Tensor], mates: Tensor) -> Output:
        """Whole groups from `encode`."""
        top, mined = self.mine(features, mates)
        return Output(self.decoder(top, features[:-1]), mined)

    def mine(self, features: Sequence[Tensor], mates: Tensor) -> tuple[Tensor, Mined | None]:
        """The decoder's top p5, and what the group yielded. In fp32."""
        with torch.autocast(features[-1].device.type, enabled=False):
            x = widened(features[-1])
            mined = None if self.generation is None else self.generation(x, mates, self._matched(features))
            x = x if mined is None else mined.features
            x = x if self.enhancement is None else self.enhancement(x)
            if mined is not None and self.config.response_channel:
                x = torch.cat([x, RESPONSE_GAIN * (mined.response - 0.5)], dim=1)
            return self.decoder.top(x), mined

    def _matched(self, features: Sequence[Tensor]) -> Tensor | None:
        """What is compared for `matches`: the features on the grid of x5, each channel with mean 0 and variance 1."""
        if self.matching is None:
            return None
        compared: Tensor = self.matching(widened(features[-self.config.merged_levels].detach()))
        return compared

    def prototypes(self, features: Sequence[Tensor], mask: Tensor, mates: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes (N, C) of x5 on the object and off it, for SCL. `mask` float (N, 1, H, W) in [0, 1]."""
        if self.generation is None:
            raise ValueError("plain saliency has no prototypes; set parts to dpg, dpg+scl or dcfm")
        with torch.autocast(features[-1].device.type, enabled=False):
            x, matched = widened(features[-1]), self._matched(features)
            inside = F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=False)
            found = [
                self.generation(x * share, mates, None if matched is None else matched * share).prototype
                for share in (inside, 1 - inside)
            ]
            return found[0], found[1]


def neck(channels: int, config: Config) -> nn.Module:
    """The encoder's last levels to x5. Normalised, so that votes, saliency and features weigh alike."""
    if config.channels is None:
        return nn.Identity()
    norm = nn.GroupNorm(max(1, config.channels // 16), config.channels) if config.norm == "group" else nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, config.channels, 1), norm)


class Decoder(nn.Module):
    """An FPN whose levels each give logits: lateral + enlarged coarser level -> two 3x3 convolutions -> head."""

    def __init__(self, channels: int, laterals: Sequence[int], config: Config) -> None:
        super().__init__()
        width = config.width

        def step(inputs: int) -> list[nn.Module]:
            norm = nn.GroupNorm(max(1, width // 8), width) if config.norm == "group" else nn.Identity()
            return [nn.Conv2d(inputs, width, 3, padding=1), norm]

        def head() -> nn.Sequential:
            deep = [layer for _ in range(config.head_depth) for layer in (*step(width), nn.ReLU())]
            return nn.Sequential(*deep, nn.Conv2d(width, 1, 1))

        self.top = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
        self.laterals = nn.ModuleList(nn.Sequential(*step(n), nn.ReLU(), *step(width)) for n in laterals)
        self.merges = nn.ModuleList(nn.Sequential(*step(width), nn.ReLU(), *step(width)) for _ in laterals)
        self.heads = nn.ModuleList(head() for _ in laterals)

    def forward(self, top: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Logits (N, 1, h, w) a level, finest first, from `top` (N, width, h, w) and the finer features."""
        logits: list[Tensor] = []
        x = top
        for level in reversed(range(len(self.laterals))):
            feature = features[level]
            coarser = F.interpolate(x, feature.shape[2:], mode="bilinear", align_corners=False)
            x = self.merges[level](self.laterals[level](feature) + coarser)
            logits.insert(0, self.heads[level](x))
        return logits


def freeze(encoder: nn.Module, trained: Sequence[str]) -> None:
    """Take gradients off all parameters but those whose names start with one of `trained`.

    Raises:
        ValueError: a given list fits no parameter at all.
    """
    names = [name for name, _ in encoder.named_parameters()]
    if trained and not any(name.startswith(tuple(trained)) for name in names):
        known = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
        raise ValueError(f"trained_layers {trained}: expected prefixes of the encoder's parameters, such as {known}")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(trained)))
