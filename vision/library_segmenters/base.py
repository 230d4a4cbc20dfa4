"""What a family of the library's segmenters is: its class, its backbone, its heads, and its way to logits."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts.texts import parse_json
from maskmill.vision.pretrained import model_folder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Rgb = tuple[float, float, float]


class LibrarySegmenter(nn.Module):
    """A model of the library behind one forward. Its own file names what differs."""

    model_class: ClassVar[str]
    backbone: ClassVar[str]  # the part that learns at `encoder_lr_factor`, as a path inside the model
    heads: ClassVar[tuple[str, ...]]  # names of layers that depend on the number of classes begin so

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> nn.Module:
        """The backbone."""
        found: nn.Module = self.model.get_submodule(self.backbone)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, H, W) of float32 (B, 3, H, W)."""
        return F.interpolate(self.logits(images), images.shape[-2:], mode="bilinear", align_corners=False)

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C, h, w) on the model's own grid."""

    def squared(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) at the model's own size, for those that know one size or square ones alone."""
        side = self.model.config.image_size
        size = (side, side) if isinstance(side, int) else tuple(side)
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    @property
    def settings(self) -> dict[str, Any]:
        """The model's config.json: with it an artifact is built again without the folder."""
        found: dict[str, Any] = self.model.config.to_dict()
        return found


def query_logits(classes: Tensor, masks: Tensor) -> Tensor:
    """Logits (B, C, h, w) of models whose queries each name a class (B, Q, C + 1), the last of them none, and a mask
    (B, Q, h, w): the logarithm of the classes' shares, which a softmax turns into the shares (MaskFormer, section 3.4).
    """
    shares = torch.einsum("bqc,bqhw->bchw", classes.float().softmax(dim=-1)[..., :-1], masks.float().sigmoid())
    return shares.clamp(min=1e-6).log()


def folder_normalisation(source: str) -> tuple[Rgb, Rgb]:
    """(mean, std) in [0, 1] of a model folder's preprocessor; ImageNet's where it names none."""
    path = model_folder(source) / "preprocessor_config.json"
    found = parse_json(path.read_bytes()) if path.is_file() else None
    if not isinstance(found, dict) or not found.get("image_mean") or not found.get("image_std"):
        return IMAGENET
    mean, std = ([float(v) for v in found[key]] for key in ("image_mean", "image_std"))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
