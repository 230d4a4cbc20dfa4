"""Options of `promptable`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from maskmill.labelers.base import LabelerConfig
from maskmill.labelers.clip_cam.config import Config as CamConfig
from maskmill.labelers.detect.config import Config as DetectConfig
from maskmill.vision.crf_options import CrfOptions, laid_over
from maskmill.vision.pretrained import STARTER, Precision

#: How the shipped model is asked where nothing else is said: chosen on development photos (benchmarks/promptable.py).
FOR_STARTER: dict[str, Any] = {"zoom": 1.6, "clamp_to_boxes": True, "crf": {}}


class Config(LabelerConfig):
    """Options of `promptable`; the model's family is that of its folder."""

    model: str = Field(
        default=STARTER,
        description="folder or hub id of a model of transformers: SAM, SAM-HQ, SAM 2, EdgeTAM, or SAM 3's tracker; "
        "starter = the small one that ships",
    )
    precision: Precision = Field(default="fp32", description="of the model's weights: fp32, bf16 or fp16")
    objects: Literal["class", "each"] = Field(
        default="class",
        description="points and strokes outside of boxes: those of a class show one object together, or each its own",
    )
    stroke_points: int = Field(
        default=5, ge=1, le=64, description="points taken along each stroke of a scribble, evenly spread"
    )
    masks: Literal["best", "single"] = Field(
        default="best",
        description="best: of the model's three readings of a prompt that with the highest predicted IoU times "
        "stability; single: its one answer",
    )
    stability_offset: float = Field(
        default=1.0, gt=0, description="stability is the IoU of the masks at logits of plus and minus this"
    )
    min_score: float = Field(
        default=0.0, ge=0, lt=1, description="objects whose predicted IoU times stability is lower are left out"
    )
    zoom: float | None = Field(
        default=None,
        ge=1,
        description="see each box in a cut of its own, a square this many times as long as the box's longer side: all "
        "of the model's resolution for small objects, at an embedding a box; none = one embedding a photo",
    )
    clamp_to_boxes: bool = Field(default=False, description="no pixel of an object outside its box")
    confidence: float = Field(default=0.0, ge=0, lt=1, description="pixels that are less sure become 255 (ignore band)")
    crf: Annotated[CrfOptions | None, laid_over(CrfOptions())] = Field(
        default=None, description="a dense CRF over the classes' probabilities, at `refine_side`; none = no refinement"
    )
    refine_side: int = Field(default=1024, ge=64, description="larger images are refined at this long side")
    detector: DetectConfig | None = Field(
        default=None,
        description="options of labeler `detect`, which finds boxes of the class names where a photo comes with tags "
        "or nothing; none = `tags` decides",
    )
    tags: Literal["cam", "none"] = Field(
        default="cam",
        description="photos with image tags or nothing: prompts from CLIP's class maps (options in `cam`), or no label",
    )
    cam: CamConfig = Field(default=CamConfig(), description="options of labeler clip_cam, which makes class maps")
    cam_threshold: float = Field(
        default=0.5, gt=0, lt=1, description="regions of a class map above this share of its peak become prompts"
    )
    cam_share: float = Field(
        default=0.25, gt=0, le=1, description="and of those the ones with this share of the largest one's area"
    )
    batch: int | None = Field(default=None, ge=1, description="images an embedding; none = 1 on a CPU, 8 on a GPU")
    prompts: int = Field(default=32, ge=1, description="prompts a call of the decoder; an image's prompts share one")
