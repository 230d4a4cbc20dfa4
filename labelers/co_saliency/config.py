"""Options of `co_saliency`."""

from dataclasses import asdict
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from maskmill.labelers.base import LabelerConfig
from maskmill.vision.crf_options import CrfOptions, laid_over


class Config(LabelerConfig):
    """Which network, and how its maps become masks."""

    later: ClassVar = {"crf": asdict(CrfOptions())}
    artifact: str = Field(description="folder of an artifact that the trainer `dcfm` left")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="share of the object from which a pixel is object")
    confidence: float = Field(default=0.0, ge=0, lt=1, description="pixels that are less sure become 255 (ignore band)")
    refine: Literal["none", "par", "crf"] = Field(default="none", description="follow the image's edges")
    crf: Annotated[CrfOptions, laid_over(CrfOptions())] = Field(
        default=CrfOptions(), description="of the dense CRF: backend, steps, widths"
    )
    min_area: float = Field(default=0.0, ge=0, le=1, description="abstain where less of the image is object")
    min_agreement: float = Field(
        default=-1.0, ge=-1, le=1, description="images whose seed agrees less with the group's are left out of it"
    )
    batch: int = Field(default=8, ge=1, description="images at a time in encoder and decoder; a group stays whole")
