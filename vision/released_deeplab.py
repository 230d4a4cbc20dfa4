"""DeepLabV3 as mmsegmentation builds it, which Dataset Diffusion and SDS train: a dilated ResNet with a stem of three
convolutions at output stride 8, atrous pyramid pooling 512 wide, and an auxiliary head on the third stage.

Source: L.-C. Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017; sizes from
mmsegmentation's `deeplabv3_r50-d8`. segmentation-models-pytorch's network of that name has another stem, a pyramid 256
wide and no auxiliary head, so that neither weights nor results go over.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 8
WIDTH = 512
DILATIONS = (12, 24, 36)
DROPOUT = 0.1


def unit(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; the side is kept."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Pyramid(nn.Module):
    """Mean of the image, a 1x1 and three dilated 3x3 convolutions side by side, a 3x3 over all, dropout, classes."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.image = unit(inputs, width)
        self.branches = nn.ModuleList([unit(inputs, width), *(unit(inputs, width, 3, d) for d in DILATIONS)])
        self.bottleneck = unit((2 + len(DILATIONS)) * width, width, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.image(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        parts = torch.cat([mean, *(branch(x) for branch in self.branches)], dim=1)
        logits: Tensor = self.classify(self.dropout(self.bottleneck(parts)))
        return logits


class Auxiliary(nn.Module):
    """One 3x3 convolution, dropout, classes."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = unit(inputs, width, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.dropout(self.body(x)))
        return logits


class ReleasedDeepLab(nn.Module):
    """Float32 (B, 3, H, W) of any size to logits (B, classes, H, W). `encoder` gives the last two maps of a timm ResNet
    (`resnet50c`, `resnet101c` as published) at stride 8.
    """

    requires_divisible_input_shape = False

    def __init__(self, encoder: nn.Module, classes: int, width: int = WIDTH) -> None:
        super().__init__()
        self.encoder = encoder
        described: Any = encoder
        third, last = described.feature_info.channels()
        self.head = Pyramid(last, width, classes)
        self.auxiliary = Auxiliary(third, width // 2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the main head."""
        return _enlarged(self.head(self.encoder(images)[-1]), images)

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both heads, the main one first."""
        third, last = self.encoder(images)
        return _enlarged(self.head(last), images), _enlarged(self.auxiliary(third), images)


def _enlarged(logits: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


STEM = {"0": "conv1.0", "1": "conv1.1", "3": "conv1.3", "4": "conv1.4", "6": "conv1.6", "7": "bn1"}
UNIT = {"conv": "0", "bn": "1"}
RULES = (
    (r"^decode_head\.image_pool\.1\.(conv|bn)\.", "head.image."),
    (r"^decode_head\.aspp_modules\.(\d)\.(conv|bn)\.", r"head.branches.\1."),
    (r"^decode_head\.bottleneck\.(conv|bn)\.", "head.bottleneck."),
    (r"^decode_head\.conv_seg\.", "head.classify."),
    (r"^auxiliary_head\.convs\.0\.(conv|bn)\.", "auxiliary.body."),
    (r"^auxiliary_head\.conv_seg\.", "auxiliary.classify."),
)


def own_name(key: str) -> str:
    """The network's name of a weight that mmsegmentation calls `key`."""
    for pattern, name in RULES:
        if found := re.match(pattern, key):
            part = UNIT.get(found[found.lastindex], "") if found.lastindex else ""
            return re.sub(pattern, name, key[: found.end()]) + (f"{part}." if part else "") + key[found.end() :]
    return f"encoder.{encoder_name(key.removeprefix('backbone.'))}" if key.startswith("backbone.") else key


def encoder_name(key: str) -> str:
    """timm's name of a weight of mmsegmentation's ResNetV1c, whose file `resnet50_v1c` has no `backbone.` before it."""
    if found := re.match(r"^stem\.(\d)\.", key):
        return f"{STEM[found[1]]}.{key[found.end() :]}"
    return key
