"""ResNet38 (wide, a1) at stride 8, the trunk of AffinityNet, SEAM and A2GNN, as an encoder of timm by name `resnet38d`.

Source: Z. Wu et al., "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition" (arXiv 1611.10080), dilated
as in J. Ahn and S. Kwak, "Learning Pixel-level Semantic Affinity", CVPR 2018. Parameters have the names of those
releases; weights that MXNet wrote are taken under their own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "resnet38d"
STEM = 64  # channels of the first convolution; all others are multiples of it
DEPTHS = {"b2": 3, "b3": 3, "b4": 6, "b5": 3}
SHAPES = {"b2": (1, 2, 2), "b3": (2, 4, 4), "b4": (4, 8, 8), "b5": (8, 8, 16)}  # in, middle, out, in stems
REDUCTIONS = (2, 4, 8, 8, 8)  # after b2 and b3; what b5 and b6 take in; at the end
WIDTHS = (2, 4, 8, 16, 64)  # of these levels, in stems
MXNET = re.compile(r"^(?:arg:|aux:)?(conv1a|res|bn)(?:(\d)[a-z](\d+)?|(7))?(?:_(branch\w+?))?_(\w+)$")
ENDINGS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


class Block(nn.Module):
    """Two 3x3 convolutions after norms and ReLUs. `through` gives the block's output and its normed input."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, first: int, dilation: int) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, middle, 3, stride, first, first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, outputs, 3, 1, dilation, dilation, bias=False)
        if inputs != outputs or stride != 1:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def through(self, x: Tensor) -> tuple[Tensor, Tensor]:
        normed = F.relu(self.bn_branch2a(x))
        short = self.conv_branch1(normed) if hasattr(self, "conv_branch1") else x
        inner = F.relu(self.bn_branch2b1(self.conv_branch2a(normed)))
        return short + self.conv_branch2b1(inner), normed

    def forward(self, x: Tensor) -> Tensor:
        return self.through(x)[0]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, with dropout of whole channels between them in training."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, outputs // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(outputs // 4, outputs // 2, 3, 1, dilation, dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def through(self, x: Tensor) -> tuple[Tensor, Tensor]:
        normed = F.relu(self.bn_branch2a(x))
        inner = self.dropout_2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(normed))))
        inner = self.dropout_2b2(F.relu(self.bn_branch2b2(self.conv_branch2b1(inner))))
        return self.conv_branch1(normed) + self.conv_branch2b2(inner), normed

    def forward(self, x: Tensor) -> Tensor:
        return self.through(x)[0]


@dataclass(frozen=True)
class Levels:
    """What timm's encoders of several maps say of them."""

    indices: tuple[int, ...]
    stem: int

    def channels(self) -> list[int]:
        return [WIDTHS[i] * self.stem for i in self.indices]

    def reduction(self) -> list[int]:
        return [REDUCTIONS[i] for i in self.indices]


class ResNet38(nn.Module):
    """Images (B, 3, H, W) to maps: after b2 and b3 (strides 2 and 4), and conv4, conv5 and conv6 of the releases, which
    are non-negative and lie at stride 8 with 8, 16 and 64 times `stem` channels.
    """

    b5: Block  # named by `setattr` below

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3, 4), stem: int | None = None) -> None:
        super().__init__()
        stem = stem or STEM
        self.feature_info = Levels(tuple(out_indices), stem)
        self.conv1a = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        for name, depth in DEPTHS.items():
            inputs, middle, outputs = (n * stem for n in SHAPES[name])
            last = name == "b5"
            stride, first, dilation = (1, 1, 2) if last else (2, 1, 1)
            setattr(self, name, Block(inputs, middle, outputs, stride, first, dilation))
            for number in range(1, depth):
                setattr(self, f"{name}_{number}", Block(outputs, middle, outputs, 1, dilation, dilation))
        self.b6 = Bottleneck(16 * stem, 32 * stem, 4, 0.3)
        self.b7 = Bottleneck(32 * stem, 64 * stem, 4, 0.5)
        self.bn7 = nn.BatchNorm2d(64 * stem)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.conv1a(images)
        second = self._stage("b2", x)
        third = self._stage("b3", second)
        x, conv4 = self.b5.through(self._stage("b4", third))
        for number in range(1, DEPTHS["b5"]):
            x = getattr(self, f"b5_{number}")(x)
        x, conv5 = self.b6.through(x)
        found = [second, third, conv4, conv5, F.relu(self.bn7(self.b7(x)))]
        return [found[i] for i in self.feature_info.indices]

    def _stage(self, name: str, x: Tensor) -> Tensor:
        x = getattr(self, name)(x)
        for number in range(1, DEPTHS[name]):
            x = getattr(self, f"{name}_{number}")(x)
        return x


def own_name(key: str) -> str:
    """A weight's name here, from that in a file that MXNet wrote or a release converted; others stay as they are."""
    match = MXNET.match(key)
    if match is None:
        return key
    kind, stage, number, last, branch, ending = match.groups()
    ending = ENDINGS.get(ending, ending)
    if kind == "conv1a":
        return f"conv1a.{ending}"
    if last is not None:
        return f"bn7.{ending}"
    if stage is None or branch is None:
        return key
    block = f"b{stage}_{number}" if number else f"b{stage}"
    return f"{block}.{'conv' if kind == 'res' else 'bn'}_{branch}.{ending}"


@register_model
def resnet38d(pretrained: bool = False, **options: Any) -> ResNet38:
    """The encoder, for `timm.create_model("resnet38d", features_only=True)`.

    Raises:
        ValueError: as a classifier, from a hub that has no weights of it, or at another stride.
    """
    if pretrained or not options.get("features_only"):
        raise ValueError(
            "resnet38d: expected an encoder with weights from a file, found a request for "
            f"{'weights of a hub' if pretrained else 'a classifier'}; name a file (the release's .pth, or MXNet's "
            "weights saved by name) in `weights`"
        )
    if options.get("output_stride", 8) != 8:
        raise ValueError(f"resnet38d: expected output stride 8, which is all it has, found {options['output_stride']}")
    return ResNet38(options.get("out_indices") or range(len(REDUCTIONS)))
