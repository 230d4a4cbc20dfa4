"""Settings of `dfr`. `faithful` is the reading of the paper that the documentation explains; `starter` fits a CPU."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.trainers.dfr.kernel import Combination
from maskmill.trainers.engine import AugmentConfig
from maskmill.trainers.scribbles import ScribbleConfig
from maskmill.vision.segmenters import SegmenterConfig

PRESETS: dict[str, dict[str, Any]] = {
    "starter": {},
    "faithful": {
        "segmenter": SegmenterConfig(
            architecture="upernet",
            encoder="swin_base_patch4_window7_224",
            weights="hub",
            options={"img_size": 512, "strict_img_size": False},
        ),
        "augment": AugmentConfig(size=512, fit="native", scale=(0.5, 2.0)),
        "steps": 40_000,
        "batch": 16,
        "lr": 6e-5,
        "weight_decay": 0.01,
        "decay_norms": False,
        "encoder_lr_factor": 1.0,
        "warmup_steps": 1500,
        "schedule": "linear",
        "loss_stride": 4,
        "grid_labels": "drawn",
        "long_pairs": 256,
    },
}


class Config(ScribbleConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`."""

    presets: ClassVar = PRESETS
    preset: Literal["starter", "faithful"] = "starter"
    segmenter: SegmenterConfig = SegmenterConfig(
        architecture="fpn", options={"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 64}
    )
    augment: AugmentConfig = AugmentConfig(size=128, scale=(0.75, 1.5))
    decay_norms: bool = True
    mask_dice: float = Field(default=1.0, ge=0)  # weight of the Dice loss beside cross-entropy, with masks alone

    # The regularised loss
    reg_weight: float = Field(default=0.1, ge=0)  # normalised by pixel, as Gated CRF's; 0 = off
    kernel: Combination = "product"  # static = Gated CRF, the ablation that every report needs
    energy: Literal["potts", "l1"] = "potts"
    loss_stride: int = Field(default=4, ge=1)  # network pixels a cell of the loss grid, a side
    radius: int = Field(default=5, ge=1)  # of the regulariser's window, in cells
    gamma: float = Field(default=1.0, ge=0)  # exponent of the learned affinity
    static_share: float = Field(default=0.5, ge=0)  # of `sum`
    deep_share: float = Field(default=0.5, ge=0)
    mass_normalised: bool = False  # divide the kernel by its mean mass a pixel
    detach_kernel: bool = True  # False lets the loss flatten the kernel instead of the labels: it collapses
    reg_delay: float = Field(default=0.005, ge=0, le=1)  # share of the steps without the regulariser
    reg_ramp: float = Field(default=0.05, ge=0, le=1)  # share of the steps at which it reaches its weight

    # The feature consistency head
    fc_weight: float = Field(default=1.0, ge=0)  # 0 = no head; kernels product and sum need it
    smooth_weight: float = Field(default=3.0, ge=0)
    head_dim: int = Field(default=64, ge=1)
    head_widths: tuple[int, ...] = Field(default=(32, 32, 64, 64), min_length=1)  # levels of stride 4, 8, 16, 32
    pair_radius: int = Field(default=4, ge=1)
    long_pairs: int = Field(default=96, ge=0)  # labelled pixels an image whose pairs count at any distance
    target_start: float = Field(default=0.1, ge=0, le=1)  # share of the steps from which sure predictions are targets
    target_threshold: float = Field(default=0.9, gt=0, le=1)
    grid_labels: Literal["drawn", "nearest"] = "drawn"  # strokes on the loss grid; nearest loses most thin ones

    @model_validator(mode="after")
    def _head_where_needed(self) -> "Config":
        if self.reg_weight > 0 and self.kernel != "static" and self.fc_weight == 0 and self.supervision == "scribbles":
            raise ValueError(
                f"kernel {self.kernel!r} needs the feature consistency head; set fc_weight above 0, or kernel: static"
            )
        return self

    @property
    def uses_head(self) -> bool:
        """Whether the feature consistency head is trained at all."""
        return self.supervision == "scribbles" and self.fc_weight > 0

    @property
    def uses_kernel(self) -> bool:
        """Whether the regularised loss is on at all."""
        return self.supervision == "scribbles" and self.reg_weight > 0

    def reg_at(self, step: int) -> float:
        """Weight of the regularised loss at a step: 0 during the delay, then a linear ramp."""
        done = step / self.steps
        if done < self.reg_delay:
            return 0.0
        rise = 1.0 if self.reg_ramp <= self.reg_delay else (done - self.reg_delay) / (self.reg_ramp - self.reg_delay)
        return self.reg_weight * min(1.0, rise)
