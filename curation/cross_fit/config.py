"""Options of the cross-fit judge: which segmenter says what a mask should have been, and how much its word weighs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from maskmill.curation.base import ScorerConfig


class CrossFitOptions(BaseModel):
    """What the segmenter is and how it is fitted. Every number that an agreement depends on is here, in the seed or in
    the samples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = Field(default="tf_efficientnet_lite0", description="timm encoder whose frozen features are read")
    weights: str = Field(
        default="auto", description="its weights: auto (those of the package, else random), random, hub, or a file"
    )
    side: int = Field(default=256, ge=64, multiple_of=32, description="images are resized to a square of this side")
    folds: int = Field(
        default=5, ge=2, le=64, description="parts of the data set; a sample is judged by what the other parts taught"
    )
    fold_by: Literal["sample", "group"] = Field(
        default="sample",
        description="what stays together in a fold: sample = nothing; group = a clip, volume or co-saliency group, "
        "for data where a whole clip may be wrong",
    )
    balance: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="how far rare classes of an image count as much as its large ones: 0 = by area, 1 = all alike",
    )
    ridge: float = Field(
        default=0.1, gt=0, description="weight of the penalty on the head, as a share of the features' mean square"
    )
    doubt: float = Field(
        default=4.0,
        ge=0,
        description="a class that n samples of the other folds show has n / (n + doubt) of a say in the agreement; the "
        "rest is granted",
    )


class CrossFitConfig(CrossFitOptions, ScorerConfig):
    """Options of the scorer `cross_fit`: agreement with a segmenter that was fitted to the other folds. It needs no
    CLIP and no class names.
    """

    kind: Literal["cross_fit"] = Field(default="cross_fit", description="name of the scorer")

    @property
    def learns(self) -> bool:
        return True
