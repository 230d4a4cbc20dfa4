"""Settings of `weclip`. The presets `faithful` and `faithful_coco` are the release's; everything else is an option."""

from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.engine.config import Schedule
from maskmill.trainers.weclip.decoder import AffinityForm
from maskmill.trainers.weclip.losses import AffinityLoss
from maskmill.trainers.weclip.refine import Filter
from maskmill.vision.crf_options import CrfOptions, laid_over

TEST_CRF = CrfOptions(gaussian_sxy=3, gaussian_weight=3, bilateral_sxy=64, bilateral_srgb=5, bilateral_weight=4)
_RELEASE: dict[str, Any] = {
    "seed": 1,
    "model": "ViT-B-16-quickgelu",
    "pretrained": "openai",
    "templates": ("a clean origami {}.",),
    "steps": 30_000,
    "batch": 4,
    "optimizer": "adamw",
    "lr": 2e-3,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
    "warmup_steps": 50,
    "warmup_factor": 1e-6,
    "schedule": "linear",
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "augment": AugmentConfig(size=320, fit="native", scale=(0.5, 2.0), flip=0.5),
    "normalisation": "imagenet",
    "temperature": None,
    "cam_layer": "norm",
    "rfm_start": 9_144,  # the release counts forwards, those of validation too: its 15,000 falls on this step (from 0)
    "candidates": 6,
    "filter": "signed",
    "box_threshold": None,
    "par_iterations": 20,
    "par_dilations": (1, 2, 4, 8, 12, 24),
    "par_stride": 1,
    "loss_stride": 1,
    "clip_precision": "fp32",
    "edge_fix": False,
    "background_power": 1.0,
    "ignore_padding": False,
    "affinity": "inner",
    "affinity_weight": 0.1,
    "affinity_loss": "linear",
    "test_size": 512,
    "test_scales": (1.0, 0.75),
    "test_flip": True,
    "test_resize": "input",
    "test_crf": True,
    "crf": {"backend": "pydensecrf"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": _RELEASE,
    "faithful_coco": {**_RELEASE, "steps": 80_000, "rfm_start": 40_000, "candidates": 10},
    "starter": {},
}


class Config(TrainerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`, for small models and machines."""

    presets: ClassVar = PRESETS
    later: ClassVar = {
        **TrainerConfig.later,
        "test_resize": "pixels",
        "measure_labels": False,
        "crf": asdict(TEST_CRF),
        "tag_weight": 0.0,
        "test_tags": 0.0,
        "test_maps": 0.0,
        "contrast": 0.0,
        "affinity": "inner",
    }
    preset: Literal["faithful", "faithful_coco", "starter"] = Field(
        default="starter",
        description="values for all that is not given: faithful (VOC) and faithful_coco are the release's, starter "
        "fits small machines",
    )
    steps: int = Field(default=600, ge=1, description="optimiser steps of the whole training")
    batch: int = Field(default=8, ge=1, description="samples a step")
    lr: float = Field(default=2e-3, gt=0, description="highest learning rate, reached after warm-up")
    warmup_steps: int = Field(default=20, ge=0, description="steps in which the learning rate rises to `lr`")
    schedule: Schedule = Field(
        default="linear",
        description="how the learning rate falls after warm-up; triangle rises to the middle and falls again",
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(size=192, scale=(0.75, 1.5)), description="how an image becomes a training crop"
    )

    views: int | None = Field(
        default=None, ge=1, description="crops of an image that are encoded once and kept; null = always new ones"
    )

    model: str = Field(default="starter", description="open_clip name, local folder, or `starter`")
    pretrained: str | None = Field(default=None, description="open_clip tag or weight file for a plain model name")
    clip_precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="floating point type of the frozen blocks; auto = as `precision`"
    )
    second: str | None = Field(
        default=None, description="WeCLIP+: timm encoder whose frozen features form a second branch; null = none"
    )
    second_weights: str = Field(
        default="auto",
        description="first weights of the encoder: auto (those of the package, else random), random, hub, or a "
        "safetensors file",
    )
    normalisation: Literal["clip", "imagenet"] = Field(
        default="clip", description="mean and deviation of the crops: CLIP's own, or ImageNet's (the release)"
    )
    templates: tuple[str, ...] = Field(
        default=("a clean origami {}.",),
        min_length=1,
        description="sentences that put a class name in place of {}; their text embeddings are averaged",
    )
    synonyms: bool = Field(default=False, description="average a class's text over its synonyms")
    temperature: float | None = Field(default=None, gt=0, description="of the class softmax; null = the model's own")

    cam_layer: Literal["norm", "output"] = Field(
        default="output",
        description="where Grad-CAM reads: norm = the last block's first LayerNorm (published), output = its output",
    )

    contrast: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share in the class maps of what each patch by itself says of the classes' texts; 0 = none",
    )
    supervision: Literal["tags", "masks"] = Field(
        default="tags", description="tags; or masks: the fully supervised upper bound"
    )
    rfm_start: int | None = Field(
        default=None,
        ge=0,
        description="first step whose labels are refined by the decoder's affinity (RFM); null = half of the steps",
    )
    candidates: int = Field(default=6, ge=1, description="last attention maps that RFM chooses from")
    filter: Filter = Field(
        default="absolute",
        description="which of them RFM keeps: absolute (the paper's rule), signed (the release's, which does not "
        "depend on the decoder), none = all",
    )
    box_threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of a map's peak from which its blobs get the boxes that the map counts in; null = the "
        "label space's",
    )
    edge_fix: bool = Field(
        default=True, description="let boxes reach the last row and column of the grid, which the release's never do"
    )
    presence_gate: float | None = Field(
        default=None, gt=0, lt=1, description="leave out tags that are less probable in a crop; null = none"
    )
    background_power: float = Field(
        default=1.5, gt=0, description="background = (1 - best map)^this; higher = more foreground"
    )
    par_iterations: int = Field(
        default=10, ge=0, description="rounds of pixel-adaptive refinement (PAR); more follow colour edges further"
    )
    par_dilations: tuple[int, ...] = Field(
        default=(1, 2, 4, 8, 12, 24), description="distances of PAR's neighbours, in pixels"
    )
    par_stride: int = Field(default=2, ge=1, description="PAR runs on crops shrunk by this")
    ignore_below: float | None = Field(
        default=None, gt=0, lt=1, description="pixels whose best map has a lower share become 255; null = none"
    )
    ignore_padding: bool = Field(default=True, description="leave the padding of crops out of the loss")
    loss_stride: int = Field(default=4, ge=1, description="segmentation loss on every n-th pixel of every n-th row")
    affinity: AffinityForm = Field(
        default="inner",
        description="logits of the decoder's affinity: inner products of its features (the release), or cosines of "
        "centred features, which a sigmoid can tell apart whatever the features' length is",
    )
    affinity_weight: float = Field(default=0.1, ge=0, description="weight of the affinity loss")
    affinity_loss: AffinityLoss = Field(
        default="linear", description="linear (the release), or bce (as printed in the paper)"
    )
    tag_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the loss of an image-level head, which learns from CLIP's embedding of a crop what its "
        "tags are and begins as CLIP's own answer; 0 = no head",
    )

    test_size: int = Field(default=256, ge=16, description="long side of the input for prediction, in pixels")
    test_scales: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="factors of that input; logits are averaged over them"
    )
    test_flip: bool = Field(default=True, description="average with the mirrored image")
    test_resize: Literal["pixels", "input"] = Field(
        default="pixels",
        description="pixels: each scale from the image, without aliasing; input: the normalised image, then its scales "
        "from that, bilinearly, sides cut to whole pixels (release)",
    )
    test_tags: float = Field(
        default=0.0,
        ge=0,
        description="how much of the logarithm of each class's probability, by that head or else by CLIP's texts, is "
        "added to its logits; 0 = none",
    )
    test_maps: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share that CLIP's class maps, of the classes that the image is told or found to show, have in the "
        "answer; 0 = the decoder alone, 1 = the decoder's affinity alone, which spreads these maps",
    )
    measure_labels: bool = Field(
        default=False,
        description="report `label_miou` as well: of the pseudo-labels that training would make for the validation "
        "images now, told their classes",
    )
    test_crf: bool = Field(default=False, description="report metrics with the dense CRF as well (`miou_crf`, …)")
    crf: Annotated[CrfOptions, laid_over(TEST_CRF)] = Field(
        default=TEST_CRF, description="of the test's dense CRF: backend, steps, widths"
    )

    @property
    def kick_in(self) -> int:
        """First step whose labels use the decoder's affinity."""
        return self.steps // 2 if self.rfm_start is None else self.rfm_start
