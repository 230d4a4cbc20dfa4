"""Settings of `weclip`. The presets `faithful` and `faithful_coco` are the release's; everything else is an option."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.trainers.engine import AugmentConfig, TrainerConfig
from maskmill.trainers.engine.config import Schedule
from maskmill.trainers.weclip.losses import AffinityLoss
from maskmill.trainers.weclip.refine import Filter

_RELEASE: dict[str, Any] = {
    "model": "ViT-B-16-quickgelu",
    "pretrained": "openai",
    "steps": 30_000,
    "batch": 4,
    "lr": 2e-3,
    "weight_decay": 0.01,
    "warmup_steps": 50,
    "schedule": "linear",
    "augment": AugmentConfig(size=320, fit="native", scale=(0.5, 2.0)),
    "normalisation": "imagenet",
    "temperature": None,
    "cam_layer": "norm",
    "rfm_start": 9_145,  # the release counts forwards, those of validation too: its 15,000 falls on this step
    "candidates": 6,
    "filter": "signed",
    "par_iterations": 20,
    "par_stride": 1,
    "loss_stride": 1,
    "clip_precision": "fp32",
    "edge_fix": False,
    "background_power": 1.0,
    "ignore_padding": False,
    "test_size": 512,
    "test_scales": (1.0, 0.75),
}
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": _RELEASE,
    "faithful_coco": {**_RELEASE, "steps": 80_000, "batch": 8, "rfm_start": 40_000, "candidates": 10},
    "starter": {},
}


class Config(TrainerConfig):
    """`preset` fills in what is not given; the field defaults are those of `starter`, for small models and machines."""

    presets: ClassVar = PRESETS
    preset: Literal["faithful", "faithful_coco", "starter"] = "starter"
    steps: int = Field(default=600, ge=1)
    batch: int = Field(default=8, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    schedule: Schedule = "linear"
    augment: AugmentConfig = AugmentConfig(size=192, scale=(0.75, 1.5))

    views: int | None = Field(default=None, ge=1)  # crops of an image, encoded once and kept; None = always new ones

    model: str = "starter"  # open_clip name, local folder, or `starter`
    pretrained: str | None = None
    clip_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of frozen blocks; auto = as `precision`
    second: str | None = None  # WeCLIP+: timm encoder whose frozen features form a second branch
    second_weights: str = "auto"
    normalisation: Literal["clip", "imagenet"] = "clip"  # of the crops; the release feeds CLIP ImageNet's
    templates: tuple[str, ...] = Field(default=("a clean origami {}.",), min_length=1)
    synonyms: bool = False
    temperature: float | None = Field(default=None, gt=0)  # of the class softmax; None = the model's own

    cam_layer: Literal["norm", "output"] = "output"  # last block's first LayerNorm (published), or its output

    supervision: Literal["tags", "masks"] = "tags"  # masks: the fully supervised upper bound
    rfm_start: int | None = Field(default=None, ge=0)  # first step with RFM; None = half of the run
    candidates: int = Field(default=6, ge=1)  # last attention maps that RFM chooses from
    filter: Filter = "absolute"
    box_threshold: float | None = Field(default=None, gt=0, lt=1)  # None = the label space's
    edge_fix: bool = True  # boxes reach the last row and column
    presence_gate: float | None = Field(default=None, gt=0, lt=1)  # tags less probable in a crop are left out
    background_power: float = Field(default=1.5, gt=0)  # background = (1 - best map)^power
    par_iterations: int = Field(default=10, ge=0)
    par_dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    par_stride: int = Field(default=2, ge=1)  # PAR and argmax run on crops shrunk by this
    ignore_below: float | None = Field(default=None, gt=0, lt=1)  # pixels whose best map has a lower share become 255
    ignore_padding: bool = True
    loss_stride: int = Field(default=4, ge=1)  # segmentation loss on every n-th pixel of every n-th row
    affinity_weight: float = Field(default=0.1, ge=0)
    affinity_loss: AffinityLoss = "linear"

    test_size: int = Field(default=256, ge=16)  # long side of the input
    test_scales: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    test_flip: bool = True
    test_crf: bool = False  # report metrics with the dense CRF as well (`miou_crf`, …)

    @property
    def kick_in(self) -> int:
        """First step whose labels use the decoder's affinity."""
        return self.steps // 2 if self.rfm_start is None else self.rfm_start
