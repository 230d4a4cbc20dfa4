"""Settings of `dcfm`. Preset `faithful` is the released recipe; `starter` fits a small encoder and few CPU cores."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from maskmill.trainers.dcfm.prototypes import Seeds
from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.vision.segmenters import PACKAGED_ENCODER

Parts = Literal["plain", "dpg", "dpg+scl", "dcfm"]
Enlarge = Literal["logits", "maps"]

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
    "parts": "dcfm",
    "scl_weight": 0.1,
    "response_weight": 0.0,
    "seed": 123,
    "epochs": 200,
    "precision": "fp32",
    "test_resize": "maps",
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
    later: ClassVar = {
        **TrainerConfig.later,
        "test_resize": "logits",
        "consensus_weight": 0.0,
        "consensus_threshold": 1.0,
        "consensus_level": 0.9,
        "consensus_edges": [10, 10],
        "consensus_size": 320,
        "consensus_layers": ["blocks.4", "blocks.5", "blocks.6"],
    }
    preset: Literal["starter", "faithful"] = Field(
        default="starter",
        description="values for all that is not given: faithful = the release, starter = for small encoders and "
        "few cores",
    )
    parts: Parts = Field(
        default="dcfm",
        description="parts of the method: plain (no group), dpg (prototypes), dpg+scl (and self-contrast), dcfm "
        "(and enhancement)",
    )
    members: int = Field(default=8, ge=1, description="images of a group in one step, at most")

    encoder: str = Field(default=PACKAGED_ENCODER, description="timm encoder")
    encoder_weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    output_stride: int = Field(
        default=32, description="pixels of the image a cell of the encoder's last level: 8, 16 or 32"
    )
    feature_levels: tuple[int, ...] = Field(
        default=(1, 2, 3, 4), min_length=2, description="levels of timm's features that are used, finest first"
    )
    merged_levels: int = Field(
        default=2, ge=1, description="so many of the last levels make x5, on the grid of the finest of them"
    )
    trained_layers: tuple[str, ...] = Field(
        default=("blocks.5", "blocks.6"),
        description="prefixes of the encoder's parameter names that are trained; all else is frozen",
    )
    encoder_lr_factor: float = Field(default=0.1, ge=0, description="learning rate of the encoder as a share of `lr`")

    channels: int | None = Field(
        default=128, ge=1, description="of x5 after a 1x1 convolution; null = the encoder's own, without one"
    )
    width: int = Field(default=32, ge=1, description="channels of the decoder")
    head_depth: int = Field(default=1, ge=0, description="3x3 convolutions before each level's logits")
    norm: Literal["none", "group"] = Field(
        default="group",
        description="after the convolution to x5 and the decoder's 3x3 ones: none, or group normalisation",
    )
    seeds: Seeds = Field(
        default="matches",
        description="who votes for the response map: matches (every other image by its best match), identity, "
        "trained, or fixed (the release's random form, without gradient)",
    )
    response_channel: bool = Field(
        default=True, description="the decoder sees the response map itself beside the features"
    )
    clip: Literal["eval", "always"] = Field(
        default="always",
        description="when negative cosines are cut off before the vote: in evaluation only (the release), or always",
    )
    enhancement: Literal["raw", "normalised"] = Field(
        default="normalised",
        description="rows of the rank-weighted attention: raw (the release, up to 10^6), or normalised to sum 1",
    )

    consensus_weight: float = Field(
        default=0.0,
        ge=0,
        description="when groups are predicted: maps are multiplied by sigmoid(weight (votes - threshold)), votes by a "
        "frozen copy of the first encoder (ours; nothing of it is trained); 0 = off",
    )
    consensus_threshold: float = Field(
        default=1.0, description="votes above which a cell counts as shared; they have mean 0 and deviation 1 an image"
    )
    consensus_level: float | None = Field(
        default=0.9,
        ge=0,
        le=1,
        description="share of what is salient in an image that loses by the votes; the most shared rest, and what has "
        "more votes, keeps its map. none = the product as it is, which lowers all of an image",
    )
    consensus_edges: tuple[int, int] = Field(
        default=(10, 10), description="rounds of PAR that let the votes, and then the map, follow the image's edges"
    )
    consensus_size: int = Field(default=320, ge=32, description="side at which that encoder sees an image, in pixels")
    consensus_layers: tuple[str, ...] = Field(
        default=("blocks.4", "blocks.5", "blocks.6"),
        min_length=1,
        description="names of its modules whose outputs are compared",
    )

    scl_weight: float = Field(default=0.1, ge=0, description="weight of the self-contrastive loss")
    response_weight: float = Field(
        default=1.0, ge=0, description="weight of an IoU loss on the response map itself; 0 = as published"
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(size=128, fit="squash", scale=(1.0, 1.25), brightness=0.2, contrast=0.2, saturation=0.2),
        description="how an image becomes a training crop",
    )

    test_resize: Enlarge = Field(
        default="logits",
        description="what is enlarged to an image's own size: logits; or maps: their sigmoid, corners on corners (the "
        "release)",
    )

    @model_validator(mode="before")
    @classmethod
    def _steps_win(cls, given: Any) -> Any:
        """Who says `steps` does not mean the preset's epochs."""
        if isinstance(given, dict) and "steps" in given and "epochs" not in given:
            return {**given, "epochs": None}
        return given

    def units(self, samples: int, groups: int) -> int:
        """`epochs` count visits of groups, as `batch` does."""
        return groups or samples

    @property
    def uses_group(self) -> bool:
        return self.parts != "plain"

    @property
    def uses_scl(self) -> bool:
        return self.parts in ("dpg+scl", "dcfm")

    @property
    def uses_enhancement(self) -> bool:
        return self.parts == "dcfm"
