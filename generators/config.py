"""How images are drawn and their masks are read: the config, which needs no model to be read."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class MaskConfig(BaseModel):
    """How maps become masks. A resolution of None takes the finest grid that is at most 16 (cross) or 32 (self)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cross_resolution: int | None = None
    self_resolution: int | None = None
    power: int = Field(default=4, ge=0)
    foreground: float = Field(default=0.6, gt=0, le=1)  # alpha
    uncertain: float = Field(default=0.5, ge=0, le=1)  # beta
    first_step: float = Field(default=0.0, ge=0, lt=1)  # share of the steps, from the noisiest, whose maps are left out

    @model_validator(mode="after")
    def _ordered(self) -> "MaskConfig":
        if self.uncertain > self.foreground:
            raise ValueError(f"uncertain ({self.uncertain}) must not be above foreground ({self.foreground})")
        return self


class GeneratorConfig(BaseModel):
    """How images are drawn. `height` and `width` None: the model's own size; `scheduler` None: the one in its
    folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "starter"
    height: int | None = Field(default=None, ge=8)
    width: int | None = Field(default=None, ge=8)
    steps: int = Field(default=20, ge=1)
    guidance: float = Field(default=3.0, ge=0)  # suits the starter; Stable Diffusion is used to 7.5
    scheduler: str | None = None  # class name in diffusers, e.g. UniPCMultistepScheduler
    batch_size: int = Field(default=8, ge=1)
    device: str = "auto"
    dtype: str = "auto"
    mask: MaskConfig = MaskConfig()
