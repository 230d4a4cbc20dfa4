"""Options of `few_shot`."""

from typing import Literal

from pydantic import Field

from maskmill.labelers.base import LabelerConfig
from maskmill.trainers.few_shot.priors import PriorConfig


class Config(LabelerConfig):
    """One class from a folder of supports. Without `artifact`, masks come from the training-free priors alone."""

    support: str = Field(description="folder with images/ and masks/ of the same stems; a mask is the class where > 0")
    class_name: str = Field(description="name of the class; in the label space or new to it")
    artifact: str | None = Field(default=None, description="folder that the trainer few_shot left")
    device: str = Field(default="auto", description="auto (cuda where there is one), cpu, cuda or cuda:N")
    priors: PriorConfig = Field(default=PriorConfig(), description="how the training-free maps are computed")
    visual: float = Field(default=0.8, ge=0, le=1, description="weight of VVP; the rest is VTP with PIR")
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="of the map as a share of its peak (of the probability, where trained); none = what segments the "
        "supports best, each by the others; for a lone one 0.4, without priors.product_text 0.65",
    )
    min_peak: float = Field(
        default=0.3, ge=0, lt=1, description="abstain where no value of the training-free map is as high"
    )
    refine: Literal["par", "none"] = Field(default="par", description="follow the image's edges")
    refine_side: int = Field(default=320, ge=64, description="long side of the image while it is refined")
    par_iterations: int = Field(
        default=10, ge=1, description="rounds of pixel-adaptive refinement (PAR); more follow colour edges further"
    )
    min_share: float = Field(default=0.001, ge=0, lt=1, description="abstain where less of the image is the class")
    confidence: float = Field(default=0.0, ge=0, lt=1, description="pixels that are less sure become 255")
