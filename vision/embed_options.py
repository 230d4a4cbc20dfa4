"""Options of embeddings by a model of the user's choice. Imports no torch."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EmbedOptions(BaseModel):
    """Which model's vectors are stored for duplicates, balance and leakage; its name alone will do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        description="folder or hub id of DINOv2, DINOv3, SigLIP or SigLIP 2; or an open_clip name, hf-hub: address or "
        "folder"
    )
    pretrained: str | None = Field(default=None, description="open_clip tag or weight file for a plain open_clip name")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the model's weights")

    @model_validator(mode="before")
    @classmethod
    def _name(cls, given: Any) -> Any:
        return {"model": given} if isinstance(given, str) else given
