"""Options of `a2gnn`. The preset `faithful` is the released box recipe; `starter` fits a few CPU cores."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from maskmill.data_contracts import WithPresets
from maskmill.labelers.base import LabelerConfig
from maskmill.labelers.clip_cam import Config as CamConfig
from maskmill.labelers.promptable.config import Config as PromptedConfig
from maskmill.trainers.affinity.model import Cells, Nodes
from maskmill.vision.crf_options import WITHOUT_IMAGE, CrfOptions, laid_over
from maskmill.vision.segmenters import PACKAGED_ENCODER

Fusion = Literal["prompted", "cam+grabcut", "grabcut", "cam"]
Reseed = Literal["none", "agree", "weak"]
Check = Literal["released", "centred", "quantile", "none"]
CRF = CrfOptions()
RELEASED_CRF = CrfOptions(gaussian_sxy=2, gaussian_weight=3, bilateral_sxy=50, bilateral_srgb=5, bilateral_weight=10)


class SeedConfig(WithPresets):
    """How boxes become seeds: the pixels whose class is taken for known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    later: ClassVar[Mapping[str, Any]] = {
        "cam_rule": "agree",
        "points_with_maps": False,
        "ready": False,
        "superpixels": None,
        "prompted": PromptedConfig(),
        "prompted_fill": (0.05, 0.98),
    }

    fusion: Fusion = Field(
        default="prompted",
        description="what claims pixels inside a box: a promptable model that is asked for it, GrabCut, GrabCut where "
        "class maps agree (cam+grabcut), or class maps alone",
    )
    prompted: PromptedConfig = Field(
        default=PromptedConfig(zoom=1.6, clamp_to_boxes=True),
        description="options of labeler `promptable` for fusion: prompted and `prompted_weight`",
    )
    prompted_fill: tuple[float, float] = Field(
        default=(0.05, 0.98), description="share of a box that the promptable model may claim"
    )
    cam: CamConfig = Field(default=CamConfig(refine="none", min_decided=0.0), description="the class maps' own options")
    cam_keep: float = Field(default=0.4, gt=0, le=1, description="share of a class's CAM pixels that are confident")
    cam_floor: float = Field(default=0.01, ge=0, le=1, description="lowest map value of a confident pixel")
    foreground_power: float = Field(default=4, gt=0, description="background (1 - max)^this where foreground is sought")
    background_power: float = Field(default=24, gt=0, description="the same where background is sought")
    background_floor: float = Field(default=0.8, ge=0, le=1, description="lowest score of confident background")
    cam_crf: bool = Field(default=False, description="sharpen both maps by a dense CRF and ask for `crf_floor`")
    cam_rule: Literal["agree", "released"] = Field(
        default="agree",
        description="agree: a confident pixel's class wins in the maps and after the CRF alike; released: the CRF "
        "names the class, the maps say where anything is sure",
    )
    crf_floor: float = Field(
        default=0.8, ge=0, le=1, description="with `cam_crf`: least probability of a confident pixel after the CRF"
    )
    grabcut_iterations: int = Field(default=5, ge=1, description="rounds of GrabCut a box")
    grabcut_margin: float = Field(default=1.0, ge=0, description="image around a box that GrabCut sees, in box sides")
    fill_range: tuple[float, float] = Field(default=(0.2, 0.9), description="share of a box that GrabCut may claim")
    tight_iou: float = Field(default=0.5, ge=0, le=1, description="least IoU of the claim's own tight box with the box")
    core: float = Field(
        default=3.0, ge=0, description="claims closer to their border than this, in pixels, are left out"
    )
    groups: bool = Field(
        default=True,
        description="a box without a plausible claim takes its part of one cut around all boxes it touches",
    )
    overlap: Literal["smaller", "undecided"] = Field(
        default="smaller", description="whose a pixel is that two classes claim: the smaller box's, or nobody's"
    )
    hollow: bool = Field(default=True, description="inside boxes, what no GrabCut claims is background")
    centre_area: float = Field(default=0.2, gt=0, le=1, description="of a box that has no other seed")
    point_radius: int = Field(default=2, ge=0, description="pixels around a given point")
    points_with_maps: bool = Field(
        default=False,
        description="beside points, the class maps' confident foreground counts as seeds too; off = points alone",
    )
    ready: bool = Field(
        default=False,
        description="scribbles are ready-made seed maps, taken as they are: for images with boxes as well",
    )
    superpixels: int | None = Field(
        default=None,
        ge=16,
        description="pixels of a superpixel: each that strokes of one class alone touch becomes theirs; none = strokes "
        "alone",
    )


PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {
        "image_side": None,
        "seeds": SeedConfig(
            fusion="cam+grabcut",
            cam=CamConfig(preset="faithful", refine="none"),
            cam_crf=True,
            cam_rule="released",
            groups=False,
            overlap="undecided",
            hollow=False,
            core=0.0,
            fill_range=(0.05, 0.95),
            points_with_maps=True,
            superpixels=400,
        ),
        "prompted_weight": 0.0,
        "crf": replace(RELEASED_CRF, backend="auto"),  # pydensecrf, as released, where it is installed
        "nodes": "levels",
        "cells": "released",
        "walk": "raw",
        "hidden": 256,
        "features": "l1",
        "steps": (150, 150),
        "lr": 0.035,
        "mp_weight": 1.0,
        "similarity_weight": 1.0,
        "other_steps": (50, 50),
        "other_lr": 0.03,
        "loss_stride": 1,
        "reseed": "none",
        "prior_weight": 0.0,
        "check": "released",
        "check_start": 0,
        "check_every": 1,
        "mask_absent_classes": False,
        "clamp_to_boxes": False,
        "ensure_box_nonempty": False,
    },
    "starter": {},
}


class Config(LabelerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`."""

    presets: ClassVar = PRESETS
    later: ClassVar[Mapping[str, Any]] = {
        "nodes": "balanced",
        "cells": "area",
        "walk": "shares",
        "prompted_weight": 0.0,
    }
    preset: Literal["faithful", "starter"] = Field(
        default="starter",
        description="values for all that is not given: faithful = the released box recipe, starter = for a few CPU "
        "cores",
    )
    output: Literal["labels", "seeds"] = Field(default="labels", description="seeds: stop before the graph")
    affinity: str | None = Field(default=None, description="artifact of trainer `affinity`; none = plain features")
    encoder: str = Field(default=PACKAGED_ENCODER, description="timm encoder where there is no artifact")
    weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file; where there is no artifact",
    )
    radius: int = Field(default=4, ge=1, description="window where there is no artifact, in cells of 8 pixels")
    nodes: Nodes = Field(
        default="balanced",
        description="what nodes hold where there is no artifact: the encoder's levels as they are (levels), or of one "
        "mean length and with the cells' colours (balanced)",
    )
    cells: Cells = Field(
        default="area",
        description="from pixels to cells and back: area = mean colours, borders repeated, padding cut off; released = "
        "bilinear colours, zeros beyond the image (without boxes they are background seeds), and the padded grid "
        "squeezed to the image",
    )
    plain_sharpness: float = Field(default=2.0, gt=0, description="plain features: a = exp(-this * distance)")
    image_side: int | None = Field(default=320, ge=32, description="long side of the graph's image; none = native")
    seeds: SeedConfig = Field(default=SeedConfig(), description="how boxes become seeds")
    reseed: Reseed = Field(
        default="weak",
        description="seeds again with the artifact's class maps: `weak`, where no cut is plausible they claim instead; "
        "`agree`, only where they and GrabCut agree",
    )
    reseed_floor: float = Field(default=0.7, ge=0, le=1, description="share from which those maps are sure")
    prior_weight: float = Field(default=0.3, ge=0, description="of those maps' shares beside the graph's")
    prompted_weight: float = Field(
        default=1.0, ge=0, description="of the promptable model's shares beside the graph's, where there are boxes"
    )
    prior_fill: tuple[float, float] = Field(
        default=(0.3, 0.75), description="mean share of a class in its box, least and most"
    )
    seed: int = Field(default=0, description="of the graph model's first weights and of dropout")

    hidden: int = Field(default=32, ge=1, description="width of the graph model")
    layers: int = Field(default=3, ge=1, description="attention layers of the graph model")
    dropout: float = Field(
        default=0.5, ge=0, lt=1, description="share of a node's features that are dropped in training"
    )
    features: Literal["l1", "rms"] = Field(
        default="rms", description="scale of a node: sum 1 (released), mean square 1"
    )
    steps: tuple[int, int] = Field(default=(30, 10), description="without and with the gated CRF loss, for boxes")
    lr: float = Field(default=0.01, gt=0, description="learning rate of the graph model where there are boxes")
    weight_decay: float = Field(default=5e-4, ge=0, description="of the graph model's weights")
    mp_weight: float = Field(
        default=0.3, ge=0, description="weight of the loss that every row and column of a box holds its class"
    )
    similarity_weight: float = Field(default=0.0, ge=0, description="of the points' likeness, beside mp_weight")
    gated_weight: float = Field(
        default=0.01, ge=0, description="weight of the gated CRF loss in the second part of `steps`"
    )
    other_steps: tuple[int, int] = Field(default=(30, 20), description="the same without boxes")
    other_lr: float = Field(default=0.01, gt=0, description="learning rate where there are no boxes")
    other_gated_weight: float = Field(
        default=0.3, ge=0, description="weight of the gated CRF loss where there are no boxes"
    )
    walk_weight: float = Field(default=3.0, ge=0, description="points and tags: weight of the random-walk class maps")
    walk: Literal["shares", "raw"] = Field(
        default="shares",
        description="the walk's class maps beside the graph's shares: brought to sum 1 first (shares; only with "
        "mask_absent_classes), or added as they are (raw, as released)",
    )
    loss_stride: Literal[1, 2, 4, 8] = Field(default=4, description="pixels between points where losses are taken")
    check: Check = Field(default="none", description="consistency check of seeds; `released` never fires")
    check_threshold: float = Field(default=0.0, ge=-1, le=1, description="cosine, or quantile, below which seeds go")
    check_start: int = Field(default=15, ge=0, description="first step of a working check")
    check_every: int = Field(default=10, ge=1, description="steps between two consistency checks")
    gate: Literal["released", "centred"] = Field(default="released", description="which cosine cuts edges")
    attention: Literal["tile", "dense"] = Field(
        default="tile", description="exact attention in tiles, or dense: the same result, slower"
    )
    tile: int = Field(default=4, ge=1, description="cells a side; fastest on CPUs at radius 4")
    batch: int = Field(default=8, ge=1, description="images of one size that are trained as one stack")

    crf: Annotated[CrfOptions | None, laid_over(CRF), WITHOUT_IMAGE] = Field(
        default=CRF, description="backend, steps and widths of the dense CRF; none = the graph's own probabilities"
    )
    mask_absent_classes: bool = Field(
        default=True, description="classes that the image's hints do not name cannot occur"
    )
    clamp_to_boxes: bool = Field(default=True, description="no class outside its own boxes")
    ensure_box_nonempty: bool = Field(
        default=True, description="give a box that ends without a pixel its most probable ones"
    )
    instances: bool = Field(default=True, description="one mask a box as well")

    @model_validator(mode="after")
    def _dense_has_the_released_gate(self) -> "Config":
        if self.attention == "dense" and self.gate == "centred":
            raise ValueError("attention: dense knows the released gate alone; set attention: tile, or gate: released")
        return self
