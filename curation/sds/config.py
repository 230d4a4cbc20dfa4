"""SdsConfig: every choice that a score depends on. Speed settings (batch size, workers, device) are not here: they
change no score.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from maskmill.curation.base import ScorerConfig
from maskmill.curation.sds.asf import IgnorePolicy
from maskmill.vision.clip import CamLayer

ImageScore = Literal["pcs", "drop", "divergence", "shift", "evidence"]
MaskScore = Literal["asf", "boundary", "both"]

FAITHFUL: dict[str, Any] = {}  # the defaults below are the authors' (with the slips of their code mended)
STARTER: dict[str, Any] = {  # chosen on photos, see benchmarks/sds_faults.py
    "labels": "prompt",
    "image_side": 256,
    "temperature": 0.2,
    "permutations": 3,
    "image_score": "evidence",
    "cam_layer": "output",
    "edge_fix": True,
    "refine": "none",
    "confidence": 0.0,
    "mask_score": "both",
}
PRESETS = {"faithful": FAITHFUL, "starter": STARTER}


class SdsConfig(ScorerConfig):
    """Options of SDS. `preset` fills in what is not given; with `faithful` nothing of our own is on."""

    kind: Literal["sds"] = Field(default="sds", exclude=True)  # left out: the scorer of configs that name none

    presets: ClassVar = PRESETS
    preset: Literal["faithful", "starter"] = Field(default="starter", description="values for all that is not given")
    model: str = Field(default="starter", description="open_clip name, local folder, or `starter`")
    pretrained: str | None = Field(default=None, description="open_clip tag or weight file for a plain model name")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    templates: tuple[str, ...] = Field(default=("a clean origami {}.",), min_length=1)
    synonyms: bool = Field(default=False, description="average a class's text over its synonyms")
    labels: Literal["prompt", "mask"] = Field(default="mask", description="where an image's classes come from")
    image_side: int | None = Field(
        default=None, ge=32, description="resize to a square of this side; none = native size"
    )
    temperature: float | None = Field(default=None, gt=0, description="of the softmax; none = the model's own")
    grid: int = Field(default=4, ge=2, description="tiles per side")
    permutations: int = Field(default=1, ge=1, description="shuffled copies per image, averaged")
    image_score: ImageScore = "pcs"
    asf_gate: float | None = Field(
        default=None, description="score masks only where image_score exceeds this; none = all"
    )
    cam_layer: CamLayer = Field(default="norm", description="norm: as published; output: plain class maps")
    n_attention: int = Field(default=8, ge=1, description="last blocks whose attention makes the affinity")
    box_threshold: float | None = Field(default=None, gt=0, lt=1, description="none = the label space's")
    edge_fix: bool = Field(default=False, description="let boxes reach the last row and column of the grid")
    refine: Literal["crf", "mean_field", "par", "none"] = "crf"
    confidence: float = Field(default=0.95, ge=0, le=1, description="pseudo-mask pixels below this become 255")
    ignore_policy: IgnorePolicy = "authors"
    mask_score: MaskScore = "asf"
    swap_check: bool = Field(default=False, description="let absent classes compete for each annotated region")
    swap_margin: float = Field(default=0.05, ge=0, description="lead in cosine by which an absent class wins a region")
