"""The frozen encoders and the decoder as one network from normalised images to logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, PredictConfig
from maskmill.trainers.engine.batches import Rgb
from maskmill.trainers.engine.device import pick_precision
from maskmill.trainers.weclip.config import Config
from maskmill.trainers.weclip.decoder import Decoded, Decoder
from maskmill.vision.clip import ClipBackbone, DenseFeatures, clip_fingerprint, load_clip
from maskmill.vision.pretrained import Precision
from maskmill.vision.segmenters import build_encoder, encoder_normalisation

SECOND_STRIDE = 16


@dataclass(frozen=True)
class Normalisation:
    """(x / 255 - mean) / std over RGB."""

    mean: Rgb
    std: Rgb

    def __call__(self, rgb: Tensor) -> Tensor:
        """uint8 or float [0, 255] (B, 3, H, W) to float32."""
        return (rgb.float() / 255 - _column(self.mean, rgb)) / _column(self.std, rgb)

    def undo(self, images: Tensor) -> Tensor:
        """Back to [0, 255]."""
        return 255 * (images * _column(self.std, images) + _column(self.mean, images))


def _column(values: Rgb, like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(1, 3, 1, 1)


def clip_precision(config: Config, device: torch.device) -> Precision:
    """Of the frozen blocks; the class maps' branch runs in fp32 whatever this is."""
    if config.clip_precision != "auto":
        return config.clip_precision
    names: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names[pick_precision(config.precision, device)]


class SecondEncoder:
    """A frozen timm encoder beside CLIP. Not a module on purpose: its weights are no part of checkpoints."""

    def __init__(self, name: str, weights: str, device: torch.device) -> None:
        encoder: Any = build_encoder(name, weights, output_stride=SECOND_STRIDE)
        self.encoder = encoder.eval().requires_grad_(False).to(device)
        self.width = int(encoder.feature_info.channels()[-1])
        mean, std = encoder_normalisation(name)
        self.normalisation = Normalisation(mean, std)

    def __call__(self, rgb: Tensor) -> Tensor:
        """Last feature map (B, width, h, w) of images in [0, 255]."""
        with torch.no_grad():
            height, width = rgb.shape[2:]
            padded = F.pad(self.normalisation(rgb), (0, -width % 32, 0, -height % 32))
            maps: Tensor = self.encoder(padded)[-1]
            rows, columns = -(-height // SECOND_STRIDE), -(-width // SECOND_STRIDE)
            return maps[:, :, :rows, :columns].float()


class Joined(Protocol):
    """What joins the decoder's answer with others, see `trainers.weclip.tags`."""

    @property
    def n_attention(self) -> int: ...

    def __call__(self, dense: DenseFeatures, decoded: Decoded, told: Sequence[Sequence[int]] | None) -> Tensor: ...


class Weclip(nn.Module):
    """Frozen CLIP (and second encoder) under a trainable decoder; `state_dict` holds the decoder, and where there is
    one the head that finds `tags`. A `witness` has its say in what `forward` answers.
    """

    def __init__(self, config: Config, classes: int, device: torch.device) -> None:
        super().__init__()
        self.backbone: ClipBackbone = load_clip(
            config.model, config.pretrained, str(device), clip_precision(config, device)
        )
        self.extra = None if config.second is None else SecondEncoder(config.second, config.second_weights, device)
        imagenet = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
        self.normalisation = imagenet if config.normalisation == "imagenet" else _clips_own(self.backbone)
        levels = max(self.backbone.n_blocks - 1, 1)
        second = None if self.extra is None else self.extra.width
        self.decoder = Decoder(levels, self.backbone.tower.width, classes, second).to(device)
        self.tags: nn.Module | None = None
        self.witness: Joined | None = None

    def encode(self, images: Tensor, n_attention: int = 0) -> DenseFeatures:
        """Frozen features of normalised images (B, 3, H, W), with the last attention maps where asked for."""
        stride = self.backbone.patch
        height, width = images.shape[2:]
        images = F.pad(images, (0, max(0, stride - width), 0, max(0, stride - height)))
        return self.backbone.encode(images, n_attention, per_block=n_attention > 0, block_outputs=True)

    def decode(self, dense: DenseFeatures, images: Tensor) -> Decoded:
        """The decoder on frozen features; `images` (normalised) feed the second encoder."""
        outputs = dense.block_outputs or (dense.last_input,)
        second = None if self.extra is None else self.extra(self.normalisation.undo(images))
        decoded: Decoded = self.decoder([x[:, dense.prefix :] for x in outputs], dense.grid, second)
        return decoded

    @property
    def modules_by_name(self) -> dict[str, nn.Module]:
        """What is trained."""
        return {"decoder": self.decoder} if self.tags is None else {"decoder": self.decoder, "tags": self.tags}

    def forward(self, images: Tensor, told: Sequence[Sequence[int]] | None = None) -> Tensor:
        """Logits (B, C, h, w) on the token grid; `told`: what the images show, for a witness to know."""
        dense = self.encode(images, 0 if self.witness is None else self.witness.n_attention)
        decoded = self.decode(dense, images)
        return decoded.logits if self.witness is None else self.witness(dense, decoded, told)


def predict_config(config: Config) -> PredictConfig:
    """The test recipe of the settings."""
    return PredictConfig(
        fit="long", size=config.test_size, scales=config.test_scales, flip=config.test_flip, multiple=1
    )


def artifact_of(model: Weclip, config: Config, space: LabelSpace) -> dict[str, Any]:
    """What an artifact holds of a trained model: arguments of `save_artifact`."""
    return {
        "modules": model.modules_by_name,
        "model": {"classes": max(space.size, 2), "clip": clip_fingerprint(config.model, config.pretrained)},
        "mean": model.normalisation.mean,
        "std": model.normalisation.std,
        "predict": predict_config(config),
    }


def _clips_own(backbone: ClipBackbone) -> Normalisation:
    (r, g, b), (sr, sg, sb) = backbone.mean, backbone.std
    return Normalisation((r, g, b), (sr, sg, sb))
