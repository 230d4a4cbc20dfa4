"""Options of `co_saliency`."""

from typing import Literal

from pydantic import Field

from maskmill.labelers.base import LabelerConfig


class Config(LabelerConfig):
    """Which network, and how its maps become masks."""

    artifact: str = Field(description="folder of an artefact that the trainer `dcfm` left")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="share of the object from which a pixel is object")
    confidence: float = Field(default=0.0, ge=0, lt=1, description="pixels that are less sure become 255 (ignore band)")
    refine: Literal["none", "par", "crf"] = Field(default="none", description="follow the image's edges")
    min_area: float = Field(default=0.0, ge=0, le=1, description="abstain where less of the image is object")
    min_agreement: float = Field(
        default=-1.0, ge=-1, le=1, description="images whose seed agrees less with the group's are left out of it"
    )
    batch: int = Field(default=8, ge=1, description="images at a time in encoder and decoder; a group stays whole")
