"""Settings that every trainer shares. A trainer's own config inherits from `TrainerConfig` and adds what its method
needs.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.data_contracts import WithPresets, config_hash

Fit = Literal["native", "short", "long", "squash"]
Schedule = Literal["constant", "poly", "linear", "cosine", "triangle"]


class Runtime(BaseModel):
    """How a run uses this machine. Not part of its fingerprint: the same run may go on elsewhere with other values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = "auto"  # auto = cuda where there is one, else cpu
    threads: int | None = Field(default=None, ge=1)  # torch's CPU threads; None leaves them as they are
    workers: int = Field(default=0, ge=0)  # data processes; 0 = one thread that prepares the next batches
    memory_mb: int = Field(default=1024, ge=0)  # encoded rows up to this size stay in memory, more are memory-mapped
    save_every: int = Field(default=200, ge=1)  # steps between checkpoints
    log_every: int = Field(default=10, ge=1)  # steps between lines of metrics.jsonl and checks that the loss is finite
    progress: bool = True  # draw a bar (on a terminal only) and say how it went


class TrainerConfig(WithPresets):
    """Optimisation settings with defaults for small hardware."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=8, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)  # adam, adamw
    momentum: float = Field(default=0.9, ge=0, lt=1)  # sgd
    nesterov: bool = False  # sgd
    schedule: Schedule = "poly"
    poly_power: float = 0.9
    warmup_steps: int = Field(default=0, ge=0)
    warmup_factor: float = Field(default=1e-6, ge=0, le=1)  # learning rate of step 0 as a share of `lr`
    lr_floor: float = Field(default=0.0, ge=0, le=1)  # lowest learning rate after warm-up, as a share of `lr`
    grad_clip: float | None = Field(default=None, gt=0)  # largest L2 norm of all gradients together
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    eval_every: int = Field(default=0, ge=0)  # steps between evaluations; 0 = only after the last step
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainerConfig":
        if self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise ValueError(f"warmup_steps: expected fewer than steps={self.steps}, found {self.warmup_steps}")
        return self

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the result: all settings but `runtime`."""
        return config_hash(self.model_dump(mode="json", exclude={"runtime"}))


class PredictConfig(BaseModel):
    """How images reach the network. The training fit is the default of every artefact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fit: Fit = "native"
    size: int = Field(default=128, ge=8)  # what `fit` refers to
    scales: tuple[float, ...] = Field(default=(1.0,), min_length=1)  # logits are averaged over them
    flip: bool = False  # average with the mirrored image
    window: int | None = Field(default=None, ge=8)  # side of a sliding window; None = the whole image at once
    overlap: float = Field(default=0.25, ge=0, lt=1)  # of neighbouring windows
    multiple: int = Field(default=32, ge=1)  # inputs are padded to multiples of this; the padding is cut off again
    batch: int = Field(default=8, ge=1)
