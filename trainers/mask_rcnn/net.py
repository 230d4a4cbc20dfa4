"""torchvision's Mask R-CNN over any timm encoder.

Source: K. He et al., "Mask R-CNN", ICCV 2017; T.-Y. Lin et al., "Feature Pyramid Networks", CVPR 2017.
"""

from collections import OrderedDict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from maskmill.trainers.engine import Rgb
from maskmill.vision.segmenters import PACKAGED_ENCODER, build_encoder

RATIOS = (0.5, 1.0, 2.0)  # heights over widths of anchors
POOLED = 7  # cells a side of an object's features for class and box


class NetworkConfig(BaseModel):
    """Which network. The widths of the paper are 256, 1024 and 256, over a ResNet-50 or -101."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = Field(default=PACKAGED_ENCODER, description="timm encoder")
    weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    width: int = Field(default=64, ge=1, description="channels of the feature pyramid")
    head: int = Field(default=256, ge=1, description="width of the head that names class and box")
    mask_width: int = Field(default=64, ge=1, description="channels of the head that draws masks")
    anchors: tuple[int, int, int, int, int] = Field(
        default=(16, 32, 64, 128, 256), description="side of the anchors on each level, in pixels of the input"
    )
    longest: int = Field(default=1333, ge=32, description="most pixels of an input's long side")
    most: int = Field(default=100, ge=1, description="objects of a photo, best first")
    min_score: float = Field(default=0.05, ge=0, lt=1, description="least score of an object")


class Pyramid(nn.Module):
    """An encoder's maps at strides 4, 8, 16 and 32, and a coarser one, all of one width."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder, config.weights, out_indices=(1, 2, 3, 4))
        info: Any = self.encoder.feature_info
        self.fpn = FeaturePyramidNetwork(info.channels(), config.width, LastLevelMaxPool())
        self.out_channels = config.width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict((str(level), found) for level, found in enumerate(self.encoder(images)))
        levels: dict[str, Tensor] = self.fpn(maps)
        return levels


def build_network(config: NetworkConfig, classes: int, side: int, mean: Rgb, std: Rgb) -> MaskRCNN:
    """Mask R-CNN for `classes` classes beside the background; photos in [0, 1] reach it with a short side of `side`."""
    anchors = AnchorGenerator(tuple((size,) for size in config.anchors), (RATIOS,) * len(config.anchors))
    return MaskRCNN(
        Pyramid(config),
        min_size=side,
        max_size=max(config.longest, side),
        image_mean=list(mean),
        image_std=list(std),
        rpn_anchor_generator=anchors,
        box_head=TwoMLPHead(config.width * POOLED**2, config.head),
        box_predictor=FastRCNNPredictor(config.head, classes + 1),
        mask_head=MaskRCNNHeads(config.width, (config.mask_width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(config.mask_width, config.mask_width, classes + 1),
        box_detections_per_img=config.most,
        box_score_thresh=config.min_score,
    )
