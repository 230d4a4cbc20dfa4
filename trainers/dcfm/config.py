"""Settings of `dcfm`. Preset `faithful` is the released recipe; `starter` fits a small encoder and few CPU cores."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.trainers.dcfm.prototypes import Seeds
from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.vision.segmenters import PACKAGED_ENCODER

Parts = Literal["plain", "dpg", "dpg+scl", "dcfm"]

FAITHFUL: dict[str, Any] = {
    "encoder": "vgg16",
    "encoder_weights": "hub",
    "output_stride": 32,
    "feature_levels": (0, 1, 2, 3, 4),
    "merged_levels": 1,
    "trained_layers": ("features_28",),
    "channels": None,
    "width": 64,
    "head_depth": 2,
    "norm": "none",
    "seeds": "fixed",
    "clip": "eval",
    "enhancement": "raw",
    "response_channel": False,
    "response_weight": 0.0,
    "batch": 1,
    "members": 16,
    "optimizer": "adam",
    "lr": 1e-4,
    "encoder_lr_factor": 0.1,
    "weight_decay": 1e-4,
    "betas": (0.9, 0.99),
    "schedule": "constant",
    "augment": AugmentConfig(size=224, fit="short", scale=(0.8, 1.2), rotate=90.0),
}
STARTER: dict[str, Any] = {"batch": 2, "lr": 2e-3, "weight_decay": 1e-4}
PRESETS: dict[str, dict[str, Any]] = {"faithful": FAITHFUL, "starter": STARTER}


class Config(TrainerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`. `batch` counts groups."""

    presets: ClassVar = PRESETS
    preset: Literal["starter", "faithful"] = "starter"
    parts: Parts = "dcfm"  # plain = the same encoder and decoder without the group
    members: int = Field(default=8, ge=1)  # images of a group in one step, at most

    encoder: str = PACKAGED_ENCODER
    encoder_weights: str = "auto"
    output_stride: int = 32
    feature_levels: tuple[int, ...] = Field(default=(1, 2, 3, 4), min_length=2)  # timm's levels, finest first
    merged_levels: int = Field(default=2, ge=1)  # so many of the last, on the grid of the finest of them, make x5
    trained_layers: tuple[str, ...] = ("blocks.5", "blocks.6")  # prefixes of parameter names
    encoder_lr_factor: float = Field(default=0.1, ge=0)

    channels: int | None = Field(default=128, ge=1)  # of x5 after a 1x1 convolution; none = the encoder's own
    width: int = Field(default=32, ge=1)  # channels of the decoder
    head_depth: int = Field(default=1, ge=0)  # 3x3 convolutions before each level's logits
    norm: Literal["none", "group"] = "group"  # after the convolution to x5 and the decoder's 3x3 ones
    seeds: Seeds = "matches"  # who votes; `fixed` = seeds picked by the release's random form, without gradient
    response_channel: bool = True  # the decoder sees the response map itself beside the features
    clip: Literal["eval", "always"] = "always"  # when negative cosines are cut off before the vote
    enhancement: Literal["raw", "normalised"] = "normalised"  # rows of the rank-weighted attention

    scl_weight: float = Field(default=0.1, ge=0)
    response_weight: float = Field(default=1.0, ge=0)  # of an IoU loss on the response map itself; 0 = published
    augment: AugmentConfig = AugmentConfig(
        size=128, fit="squash", scale=(1.0, 1.25), brightness=0.2, contrast=0.2, saturation=0.2
    )

    @property
    def uses_group(self) -> bool:
        return self.parts != "plain"

    @property
    def uses_scl(self) -> bool:
        return self.parts in ("dpg+scl", "dcfm")

    @property
    def uses_enhancement(self) -> bool:
        return self.parts == "dcfm"
