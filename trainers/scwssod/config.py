"""Settings of `scwssod`. `faithful` is the release with its faults mended, `repository` the release with them."""

from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.scribbles import ScribbleConfig
from maskmill.trainers.scribbles.losses import Pce
from maskmill.trainers.scwssod.model import Fusion, Gate
from maskmill.vision.scribbles.maps import Resize
from maskmill.vision.segmenters import Rgb, encoder_normalisation

Normalisation = Literal["encoder", "duts"]
SmallNorm = Literal["shared", "own", "frozen"]
DUTS = (  # mean and deviation of the release's loader, here in [0, 1]
    (124.55 / 255, 118.90 / 255, 102.94 / 255),
    (56.77 / 255, 55.97 / 255, 57.50 / 255),
)
_RELEASE: dict[str, Any] = {
    "encoder": "resnet50.tv_in1k",
    "encoder_weights": "hub",
    "normalisation": "duts",
    "width": 256,
    "fusion": "aggm",
    "gate": "raw",
    "head_weights": (1.0, 0.8, 0.6, 0.4),
    "lsc_weight": 0.3,
    "lsc_scale": 0.25,
    "lsc_radius": 5,
    "xy_sigma_cells": 6.0,
    "colour_sigma_normalised": 0.1,
    "ssc_weight": 1.0,
    "ssc_scale": 0.3,
    "ssc_alpha": 0.85,
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
    "steps": 26_400,  # 40 epochs of 660 batches
    "precision": "fp32",
    "pce": "softmax_of_prob",
    "scribble_resize": "nearest",
}
PRESETS: dict[str, dict[str, Any]] = {
    # on small crops consistency and gates cost more than they give (docs/scribbles.md)
    "starter": {"pce": "softmax_of_prob", "lsc_heads": "main", "ssc_weight": 0.0, "fusion": "mean"},
    "faithful": {**_RELEASE, "lsc_heads": "main"},
    "repository": {**_RELEASE, "lsc_heads": "all", "lsc_form": "repository", "gate_floor": False},
}


class Config(ScribbleConfig):
    """`preset` fills in what is not given."""

    presets: ClassVar = PRESETS
    later: ClassVar = {**TrainerConfig.later, "normalisation": "encoder", "gate_floor": True}
    preset: Literal["starter", "faithful", "repository"] = Field(
        default="starter",
        description="values for all that is not given: faithful = the release with its faults mended, repository = "
        "with them, starter = for small machines",
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(size=160, fit="squash", brightness=0.2, contrast=0.2, saturation=0.2),
        description="how an image becomes a training crop",
    )
    encoder: str = Field(default="tf_efficientnet_lite0", description="timm encoder of four levels")
    encoder_weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    width: int = Field(default=64, ge=4, description="channels of every block behind the encoder")
    normalisation: Normalisation = Field(
        default="encoder",
        description="mean and deviation of colours: those of the encoder's weights, or of the photos of DUTS (the "
        "release)",
    )
    fusion: Fusion = Field(
        default="aggm",
        description="how levels are merged: aggm (learned gates), their mean, or cat (side by side, as in GCPANet)",
    )
    gate: Gate = Field(
        default="neutral",
        description="gates of aggm: softmax, raw (the release's a1 + a2 + a3, which crosses 0 at the start of "
        "training), or neutral (raw, but all begin at 1 and move from there)",
    )
    gate_floor: bool = Field(
        default=True, description="keep the sum of raw gates 1e-4 away from 0; the release divides by what there is"
    )
    head_weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = Field(
        default=(
            *(1.0, 0.8, 0.6, 0.4),  # heads 2, 3, 4, 5
        ),
        description="weights of the losses of heads 2, 3, 4 and 5",
    )

    pce: Pce = Field(
        default="nll",
        description="loss on the strokes: nll, or the release's softmax over probabilities, which never reaches 0",
    )
    scribble_resize: Resize = Field(
        default="any",
        description="any: a cell that a stroke touches is drawn; nearest: pixels of thin strokes get lost on the "
        "way down",
    )
    lsc_weight: float = Field(default=0.3, ge=0, description="weight of the local saliency coherence loss; 0 = off")
    lsc_heads: Literal["all", "main"] = Field(default="all", description="heads that it acts on: all, or the main one")
    lsc_form: Literal["exact", "repository"] = Field(
        default="exact", description="exact, or repository: zero padding, and colours divided once a head"
    )
    lsc_scale: float = Field(
        default=0.25, gt=0, le=1, description="share of the crop's side at which coherence is judged"
    )
    lsc_radius: int = Field(default=5, ge=1, description="of its window, in pixels at that scale")
    ssc_weight: float = Field(
        default=1.0, ge=0, description="weight of the structure consistency loss; 0 = off, and no second pass"
    )
    ssc_scale: float = Field(default=0.3, gt=0, le=1, description="share of the crop's side that the second pass sees")
    ramp: float = Field(
        default=0.3, ge=0, le=1, description="share of the steps at which both losses reach their weight, from 0"
    )
    ssc_alpha: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="share of structural similarity (SSIM) in the consistency; the rest is the absolute difference",
    )
    ssc_norm: SmallNorm = Field(
        default="frozen",
        description="BatchNorm in the small pass: shared = by its own statistics, which also move the stored ones (the "
        "release); own = by its own, stored ones stay; frozen = by the stored ones",
    )

    @property
    def colours(self) -> tuple[Rgb, Rgb]:
        """Mean and deviation that images are normalised with, in [0, 1]."""
        return DUTS if self.normalisation == "duts" else encoder_normalisation(self.encoder)

    def ramp_at(self, step: int) -> float:
        """Share of the weights of coherence and consistency at a step."""
        return 1.0 if self.ramp == 0 else min(1.0, step / (self.ramp * self.steps))
