"""Options of the judge `promptable` of SDS."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ByBoxesOptions(BaseModel):
    """Which model is asked, and for what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None, description="folder or hub id of SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3's tracker"
    )
    prompts: Literal["boxes", "names"] = Field(
        default="boxes",
        description="boxes: those of the annotation's parts; names: the words of its classes, which SAM 3 alone reads",
    )
    threshold: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="with names: least score of an instance, its own times that of the word's presence in the photo",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the model's weights")
