"""Options of `prompted_video`."""

from typing import Literal

from pydantic import Field

from maskmill.labelers.base import LabelerConfig
from maskmill.vision.pretrained import Precision


class Config(LabelerConfig):
    """Options of `prompted_video`; the model's family is that of its folder."""

    model: str = Field(description="folder or hub id of a video model of transformers: SAM 2, EdgeTAM, SAM 3's tracker")
    precision: Precision = Field(default="fp32", description="of the model's weights: fp32, bf16 or fp16")
    objects: Literal["class", "each"] = Field(
        default="class",
        description="points and strokes outside of boxes: those of a class show one object together, or each its own",
    )
    stroke_points: int = Field(
        default=5, ge=1, le=64, description="points taken along each stroke of a scribble, evenly spread"
    )
    min_score: float = Field(
        default=0.0, ge=0, lt=1, description="an object is left out of frames where it is seen with less probability"
    )
    min_found: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of a clip's objects that a frame must show, else it gets no label; 0 = any of them: objects "
        "leave",
    )
