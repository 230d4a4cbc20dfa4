"""Options of what may follow any labeler: one refiner for its masks."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.vision.crf_options import CrfOptions, laid_over
from maskmill.vision.pretrained import Precision


class RefinerConfig(BaseModel):
    """Which refiner goes over a labeler's masks before they are written; the word for it alone will do: `crf`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["crf", "par", "promptable"] = Field(
        description="crf: a dense CRF; par: pixel-adaptive refinement; promptable: each object is asked for anew, by "
        "its box and a point inside, of a model like SAM"
    )
    crf: Annotated[CrfOptions, laid_over(CrfOptions())] = Field(
        default=CrfOptions(), description="with kind crf: of it"
    )
    rounds: int = Field(default=10, ge=1, description="with kind par: more rounds follow colour edges further")
    side: int = Field(
        default=1024, ge=64, description="with kind crf or par: larger images are refined at this long side"
    )
    model: str | None = Field(
        default=None, description="with kind promptable: folder or hub id, as labeler promptable takes them"
    )
    precision: Precision = Field(default="fp32", description="of that model's weights: fp32, bf16 or fp16")
    agreement: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="an object is redrawn where the model's mask and the labeler's have at least this IoU; others stay",
    )

    @model_validator(mode="before")
    @classmethod
    def _word(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _has_a_model(self) -> "RefinerConfig":
        if self.kind == "promptable" and self.model is None:
            raise ValueError("refiner promptable: expected `model`, a folder or hub id of SAM or its kin; found none")
        return self
