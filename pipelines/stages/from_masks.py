"""What drawing images for masks that exist depends on; reading it needs no engine."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from maskmill.generators.config import ControlConfig


class FreeMaskConfig(BaseModel):
    """Which segmenter judges, and what follows from its judgement."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str = Field(description="folder of a segmenter trained on real pairs of the same label space")
    tolerance: float = Field(
        default=1.25,
        ge=0,
        description="a drawn pixel becomes 255 where its loss is above this many times its class's mean loss on real "
        "pixels",
    )
    harder: bool = Field(
        default=True, description="more images for harder masks: min(1 + round(per_mask * rank / masks), per_mask)"
    )
    device: str = Field(default="auto", description="auto (cuda where there is one), cpu, cuda or cuda:N")


class FromMasksConfig(BaseModel):
    """How many images each mask gets, and which scenes they are set in (taken in turn)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    control: ControlConfig = Field(description="models and how they draw")
    per_mask: int = Field(default=4, ge=1, description="images to draw for each mask")
    scenes: tuple[str, ...] = Field(default=("",), description="surroundings, taken in turn; an empty one says nothing")
    filter: FreeMaskConfig | None = Field(
        default=None, description="FreeMask: leave implausible regions out of the labels, draw hard masks more often"
    )

    @model_serializer(mode="wrap")
    def _without_filter(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Work without a filter keeps the hashes that it has always had."""
        dumped: dict[str, Any] = dump(self)
        return {key: value for key, value in dumped.items() if key != "filter" or value is not None}


class RunFromMasks(FromMasksConfig):
    """The same in a run: whose masks."""

    samples: str = Field(
        description="folder of Sample shards whose masks are drawn, as `RUN/samples` of a run that read a source"
    )
