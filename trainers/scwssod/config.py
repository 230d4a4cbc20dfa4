"""Settings of `scwssod`. `faithful` is the release with its faults mended, `repository` the release with them."""

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from maskmill.trainers.engine import AugmentConfig
from maskmill.trainers.scribbles import ScribbleConfig
from maskmill.trainers.scribbles.losses import Pce
from maskmill.trainers.scwssod.model import Fusion, Gate
from maskmill.vision.scribbles.maps import Resize

_RELEASE: dict[str, Any] = {
    "encoder": "resnet50",
    "encoder_weights": "hub",
    "width": 256,
    "gate": "raw",
    "ssc_norm": "shared",
    "ramp": 0.0,
    "augment": AugmentConfig(size=320, fit="squash"),
    "optimizer": "sgd",
    "nesterov": True,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "lr": 1e-2,
    "lr_floor": 1e-3,
    "schedule": "triangle",
    "encoder_lr_factor": 0.1,
    "batch": 16,
    "steps": 26_400,
    "pce": "softmax_of_prob",
    "scribble_resize": "nearest",
}
PRESETS: dict[str, dict[str, Any]] = {
    "starter": {},
    "faithful": {**_RELEASE, "lsc_heads": "main"},
    "repository": {**_RELEASE, "lsc_heads": "all", "lsc_form": "repository"},
}


class Config(ScribbleConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`, for small machines."""

    presets: ClassVar = PRESETS
    preset: Literal["starter", "faithful", "repository"] = "starter"
    augment: AugmentConfig = AugmentConfig(size=160, fit="squash", brightness=0.2, contrast=0.2, saturation=0.2)
    encoder: str = "tf_efficientnet_lite0"
    encoder_weights: str = "auto"
    width: int = Field(default=64, ge=4)  # channels of every block behind the encoder
    fusion: Fusion = "aggm"  # mean: a decoder without learned gates
    gate: Gate = "softmax"  # raw: the release's a1 + a2 + a3, which crosses 0 at the start of training
    head_weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (
        *(1.0, 0.8, 0.6, 0.4),  # heads 2, 3, 4, 5
    )

    pce: Pce = "nll"
    scribble_resize: Resize = "any"  # nearest: pixels of thin strokes get lost on the way down
    lsc_weight: float = Field(default=0.3, ge=0)  # local saliency coherence; 0 = off
    lsc_heads: Literal["all", "main"] = "all"
    lsc_form: Literal["exact", "repository"] = "exact"  # repository: zero padding, and colours divided once a head
    lsc_scale: float = Field(default=0.25, gt=0, le=1)  # of the crop, on which coherence is judged
    lsc_radius: int = Field(default=5, ge=1)
    ssc_weight: float = Field(default=1.0, ge=0)  # structure consistency; 0 = off, and no second pass
    ssc_scale: float = Field(default=0.3, gt=0, le=1)
    ramp: float = Field(default=0.3, ge=0, le=1)  # share of the steps at which both losses reach their weight, from 0
    ssc_alpha: float = Field(default=0.85, ge=0, le=1)
    ssc_norm: Literal["shared", "frozen"] = "frozen"  # shared: the small pass moves BatchNorm's statistics too

    def ramp_at(self, step: int) -> float:
        """Share of the weights of coherence and consistency at a step."""
        return 1.0 if self.ramp == 0 else min(1.0, step / (self.ramp * self.steps))
