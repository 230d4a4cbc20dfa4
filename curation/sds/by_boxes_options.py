"""Options of the judge `promptable` of SDS."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ByBoxesOptions(BaseModel):
    """Which model is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None, description="folder or hub id of SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3's tracker"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the model's weights")
