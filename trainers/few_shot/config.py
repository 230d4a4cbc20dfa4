"""Settings of `few_shot`. The presets are the two releases; the field defaults, `starter`, fit small machines."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.engine.config import Schedule
from maskmill.trainers.few_shot.episodes import EpisodeConfig
from maskmill.trainers.few_shot.priors import PriorConfig
from maskmill.trainers.few_shot.scl import CrossIou, InterScale

_RELEASES: dict[str, Any] = {
    "encoder": "resnet50",
    "encoder_weights": "hub",
    "size": 473,
    "width": 256,
    "scale_levels": False,
    "area_masks": False,
    "target_stride": 1,
    "object_weight": 1.0,
    "support_weight": 1.0,
    "prior_gain": 1.0,
    "cached": False,
    "schedule": "poly",
}
SCL: dict[str, Any] = {
    **_RELEASES,
    "base": "pfenet",
    "prior": "plain",
    "scl": True,
    "scales": (60, 30, 15, 8),
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "lr": 0.0025,
    "lr_parity": 10.0,
    "batch": 4,
    "steps": 200 * 5_953 // 4,
    "inter_scale_source": "initial",
    "augment": AugmentConfig(size=473, fit="native", scale=(0.9, 1.1), rotate=10.0, flip=0.5, blur=0.5),
    "episodes": EpisodeConfig(min_pixels=2_048, min_share=0.0, drop_held_out=False),
    "test_episodes": 5_000,
    "seed": 321,
}
PI_CLIP: dict[str, Any] = {
    **_RELEASES,
    "base": "hdmnet",
    "prior": "pi_clip",
    "priors": PriorConfig(preset="faithful"),
    "mask_support": True,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "lr": 1e-4,
    "lr_parity": 10.0,
    "batch": 8,
    "steps": 30 * 5_953 // 8,
    "augment": AugmentConfig(size=473, fit="squash", scale=(1.0, 1.0), rotate=10.0, flip=0.5, blur=0.5),
    "episodes": EpisodeConfig(min_pixels=2_048, min_share=0.0, drop_held_out=True, pick="raw"),
    "test_episodes": 1_000,
    "seed": 321,
}
PRESETS: dict[str, dict[str, Any]] = {"starter": {}, "scl": SCL, "pi_clip": PI_CLIP}


class Config(TrainerConfig):
    """`preset` fills in what is not given: `scl` = SCL on PFENet, PASCAL-5i; `pi_clip` = PI-CLIP on HDMNet."""

    presets: ClassVar = PRESETS
    preset: Literal["starter", "scl", "pi_clip"] = "starter"
    steps: int = Field(default=400, ge=1)
    batch: int = Field(default=8, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    schedule: Schedule = "poly"

    episodes: EpisodeConfig = EpisodeConfig()
    shots: int = Field(default=1, ge=1)  # of training episodes
    test_shots: int = Field(default=1, ge=1)
    test_episodes: int = Field(default=200, ge=1)
    test_seeds: tuple[int, ...] | None = Field(default=None, min_length=1)  # metrics are means over them; None = `seed`

    encoder: str = "tf_efficientnet_lite0"  # any timm encoder; frozen, batch statistics as stored
    encoder_weights: str = "auto"
    output_stride: Literal[8, 16, 32] = 8
    size: int = Field(default=160, ge=16)  # canvas: images are squashed to it
    scale_levels: bool = True  # divide each level of features by its root mean square over the image
    mask_support: bool = False  # blacken (to the mean colour) a support's background before the encoder
    area_masks: bool = True  # masks reach the grid as area shares, not by exact pixels
    binary_masks: bool = True  # threshold them there

    base: Literal["pfenet", "hdmnet"] = "pfenet"
    width: int = Field(default=64, ge=8)
    scales: tuple[float, ...] = Field(default=(1.0, 0.5, 0.25), min_length=1)  # shares of the grid, or cells a side
    dropout: float = Field(default=0.1, ge=0, lt=1)  # of the reduced features; the releases: 0.5

    prior: Literal["none", "plain", "pi_clip"] = "plain"
    priors: PriorConfig = PriorConfig()

    scl: bool = False
    inter_scale_source: InterScale = "current"
    support_weight: float = Field(default=0.5, ge=0)  # of each support's loss: both as much as the query's; release: 1
    inner_weight: float = Field(default=1.0, ge=0)
    cross_iou: CrossIou = "both"  # of a support's score: both sides' (PFENet version), or the object's (CANet version)
    object_weight: float = Field(default=3.0, gt=0)  # of an object's pixel in the query's loss; the releases: 1
    support_object_weight: float = Field(default=1.0, gt=0)  # the same in the losses of SCL's supports; the release: 1
    prior_gain: float = Field(default=5.0, gt=0)  # of the prior maps in pfenet's merge; the release: 1
    target_stride: int = Field(default=2, ge=1)  # losses are taken on the canvas shrunk by this; the releases: 1

    lr_parity: float = Field(default=1.0, gt=0)  # the releases multiply the nominal rate of new layers by 10
    augment: AugmentConfig | None = None  # random views; None = flips only, of frozen features
    cached: bool = True  # keep frozen features of every image (needs augment: null)
    cache_mb: int = Field(default=4096, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.scl and self.base != "pfenet":
            raise ValueError("scl: needs base: pfenet, whose support path it trains; hdmnet matches supports directly")
        if self.scl and self.shots != 1:
            raise ValueError(f"scl: expected shots=1 (K shots need no retraining), found {self.shots}")
        if self.cached and self.augment is not None:
            raise ValueError("cached: frozen features are those of whole images; set cached: false, or augment: null")
        if self.augment is not None and self.augment.size != self.size:
            raise ValueError(f"augment.size: expected the canvas of {self.size}, found {self.augment.size}")
        return self

    @property
    def prior_channels(self) -> int:
        """Prior maps that the decoder takes: VVP, then VTP (twice for hdmnet, as released)."""
        if self.prior == "pi_clip":
            return self.priors.channels(self.shots) + (2 if self.base == "hdmnet" else 1)
        return 1 if self.prior == "plain" else 0

    @property
    def target_size(self) -> int:
        """Side of the masks that losses compare with."""
        return max(1, self.size // self.target_stride)
