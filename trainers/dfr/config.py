"""Settings of `dfr`. `faithful` is the reading of the paper that the documentation explains; `starter` fits a CPU."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.trainers.dfr.kernel import Combination
from maskmill.trainers.engine import AugmentConfig
from maskmill.trainers.scribbles import ScribbleConfig
from maskmill.vision.segmenters import LIBRARY, RELEASED, SegmenterConfig
from maskmill.vision.windows import Window, half_offsets

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
        "kernel": "product",
        "energy": "potts",
        "reg_weight": 0.1,
        "reg_delay": 0.005,
        "reg_ramp": 0.05,
        "fc_weight": 1.0,
        "smooth_weight": 3.0,
        "target_start": 0.1,
        "target_threshold": 0.9,
        "optimizer": "adamw",
        "betas": (0.9, 0.999),
        "precision": "fp32",
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
    later: ClassVar = {**ScribbleConfig.later, "calibrated": False, "dilations": []}
    preset: Literal["starter", "faithful"] = Field(
        default="starter",
        description="values for all that is not given: faithful = our reading of the paper, starter = for a CPU",
    )
    segmenter: SegmenterConfig = Field(
        default=SegmenterConfig(
            architecture="fpn", options={"decoder_pyramid_channels": 64, "decoder_segmentation_channels": 64}
        ),
        description="network that is trained",
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(size=128, scale=(0.75, 1.5)), description="how an image becomes a training crop"
    )
    decay_norms: bool = Field(
        default=True, description="let weight decay act on norms, biases and position tables of transformers, too"
    )
    mask_dice: float = Field(
        default=1.0, ge=0, description="with supervision: masks: weight of the Dice loss beside cross-entropy"
    )

    # The regularised loss
    reg_weight: float = Field(default=0.1, ge=0, description="weight of the regularised loss a pixel; 0 = off")
    kernel: Combination = Field(
        default="product",
        description="what makes two cells alike: static (position and colour, Gated CRF), product (times the "
        "learned affinity), sum (beside it)",
    )
    energy: Literal["potts", "l1"] = Field(
        default="potts", description="how unlike predictions are charged: potts, or l1 distance"
    )
    loss_stride: int = Field(default=4, ge=1, description="network pixels a cell of the loss grid, a side")
    radius: int = Field(default=5, ge=1, description="of the regulariser's window, in cells")
    dilations: tuple[int, ...] = Field(
        default=(),
        description="in place of that window the eight neighbours at each of these distances, e.g. 1, 2, 4, 8; empty = "
        "the window",
    )
    calibrated: bool = Field(
        default=False,
        description="learned affinity as sigmoid(g (t - d)), g and t fitted on pairs of drawn cells (ours); used once "
        "it tells classes apart better than colours, the static kernel until then",
    )
    gamma: float = Field(default=1.0, ge=0, description="exponent of the learned affinity; 0 = it has no say")
    static_share: float = Field(default=0.5, ge=0, description="with kernel: sum: weight of position and colour")
    deep_share: float = Field(default=0.5, ge=0, description="with kernel: sum: weight of the learned affinity")
    mass_normalised: bool = Field(default=False, description="divide the kernel by its mean mass a pixel")
    detach_kernel: bool = Field(
        default=True,
        description="keep gradients out of the kernel; false lets the loss flatten the kernel instead of the "
        "labels, and it collapses",
    )
    reg_delay: float = Field(default=0.005, ge=0, le=1, description="share of the steps without the regulariser")
    reg_ramp: float = Field(
        default=0.05, ge=0, le=1, description="share of the steps at which the regulariser reaches its weight"
    )

    # The feature consistency head
    fc_weight: float = Field(
        default=1.0,
        ge=0,
        description="weight of the feature consistency head's loss; 0 = no head, which kernels product and sum need",
    )
    smooth_weight: float = Field(
        default=3.0, ge=0, description="weight of the head's smoothness where colours are alike"
    )
    head_dim: int = Field(default=64, ge=1, description="channels of the head's embedding")
    head_widths: tuple[int, ...] = Field(
        default=(32, 32, 64, 64), min_length=1, description="channels of the head's levels of stride 4, 8, 16 and 32"
    )
    pair_radius: int = Field(
        default=4, ge=1, description="of the window whose pairs of labelled cells teach the head, in cells"
    )
    long_pairs: int = Field(
        default=96, ge=0, description="labelled pixels an image whose pairs count at any distance; 0 = none"
    )
    target_start: float = Field(
        default=0.1, ge=0, le=1, description="share of the steps from which on sure predictions are targets of the head"
    )
    target_threshold: float = Field(default=0.9, gt=0, le=1, description="least probability of such a prediction")
    grid_labels: Literal["drawn", "nearest"] = Field(
        default="drawn",
        description="strokes on the loss grid: drawn as area, or by the nearest pixel, which loses most thin ones",
    )

    @model_validator(mode="after")
    def _head_where_needed(self) -> "Config":
        half_offsets(self.window)
        if self.segmenter.architecture in (LIBRARY, RELEASED):
            raise ValueError(
                "segmenter.architecture: expected one of segmentation-models-pytorch, whose encoder's levels the "
                f"feature consistency head reads, found {self.segmenter.architecture}; take segformer or upernet of "
                "these, or trainer supervised"
            )
        if self.reg_weight > 0 and self.kernel != "static" and self.fc_weight == 0 and self.supervision == "scribbles":
            raise ValueError(
                f"kernel {self.kernel!r} needs the feature consistency head; set fc_weight above 0, or kernel: static"
            )
        if self.calibrated and (self.kernel == "static" or self.fc_weight == 0):
            raise ValueError(
                f"calibrated: expected a kernel that follows the head, found kernel {self.kernel!r} and fc_weight "
                f"{self.fc_weight:g}; set kernel: product or sum, and fc_weight above 0"
            )
        return self

    @property
    def window(self) -> Window:
        """Of the regulariser."""
        return self.dilations or self.radius

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
