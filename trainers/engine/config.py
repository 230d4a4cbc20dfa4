"""Settings that every trainer shares. A trainer's own config inherits from `TrainerConfig` and adds what its method
needs.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from maskmill.data_contracts import FOR_HASH, WithPresets, config_hash

Fit = Literal["native", "short", "long", "squash"]
Schedule = Literal["constant", "poly", "linear", "cosine", "triangle"]


class Runtime(BaseModel):
    """How a run uses this machine. Not part of its fingerprint: the same run may go on elsewhere with other values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field(default="auto", description="auto (cuda where there is one), cpu, cuda or cuda:N")
    threads: int | None = Field(default=None, ge=1, description="torch's CPU threads; null leaves them as they are")
    workers: int = Field(default=0, ge=0, description="data processes; 0 = one thread that prepares the next batches")
    memory_mb: int = Field(
        default=1024, ge=0, description="encoded rows up to so many MB stay in memory, more are memory-mapped"
    )
    save_every: int = Field(default=200, ge=1, description="steps between checkpoints")
    log_every: int = Field(
        default=10, ge=1, description="steps between lines of metrics.jsonl and checks that the loss is finite"
    )
    progress: bool = Field(default=True, description="draw a bar (on a terminal only) and say how it went")


class TrainerConfig(WithPresets):
    """Optimisation settings with defaults for small hardware."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    later: ClassVar[Mapping[str, Any]] = {"epochs": None, "processes": 1}

    seed: int = Field(default=0, description="of first weights, order of samples and augmentation")
    steps: int = Field(default=1000, ge=1, description="optimiser steps of the whole training")
    epochs: float | None = Field(
        default=None, gt=0, description="passes over the samples, in place of `steps`; null = as many steps as `steps`"
    )
    batch: int = Field(default=8, ge=1, description="samples a step")
    processes: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="processes that train as one, each on a GPU of its own where there are any; `batch` is for each",
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="which optimiser")
    lr: float = Field(default=1e-3, gt=0, description="highest learning rate, reached after warm-up")
    weight_decay: float = Field(default=0.01, ge=0, description="of the optimiser")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="adam, adamw: decay of both running means")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd: momentum")
    nesterov: bool = Field(default=False, description="sgd: Nesterov's momentum")
    schedule: Schedule = Field(
        default="poly",
        description="how the learning rate falls after warm-up; triangle rises to the middle and falls again",
    )
    poly_power: float = Field(default=0.9, description="schedule poly: exponent of the remaining share of the steps")
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the learning rate rises to `lr`; 0 = none")
    warmup_factor: float = Field(default=1e-6, ge=0, le=1, description="learning rate of step 0 as a share of `lr`")
    lr_floor: float = Field(
        default=0.0, ge=0, le=1, description="lowest learning rate after warm-up, as a share of `lr`"
    )
    grad_clip: float | None = Field(
        default=None, gt=0, description="largest L2 norm of all gradients together; null = not clipped"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="floating point type of the training: auto (bf16 where the hardware multiplies it, fp16 on "
        "older GPUs, else fp32), "
        "fp32, bf16 or fp16",
    )
    eval_every: int = Field(default=0, ge=0, description="steps between evaluations; 0 = only after the last step")
    runtime: Runtime = Field(
        default=Runtime(), description="how the training uses this machine; changes no result's fingerprint"
    )

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainerConfig":
        if self.epochs is None and self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise ValueError(f"warmup_steps: expected fewer than steps={self.steps}, found {self.warmup_steps}")
        return self

    def units(self, samples: int, groups: int) -> int:
        """How many of what `batch` counts a pass holds: samples, or groups of them where a method overrides this."""
        return samples

    def with_steps(self, samples: int, groups: int = 0) -> Self:
        """The same settings with `epochs` over that many samples (in so many groups) turned into `steps`: at least one,
        rounded up.

        Raises:
            ValueError: fewer steps than the warm-up takes.
        """
        if self.epochs is None:
            return self
        units = self.units(samples, groups)
        steps = max(1, math.ceil(round(self.epochs * units / (self.batch * self.processes), 9)))
        if self.warmup_steps >= steps and self.warmup_steps > 0:
            found = f"{self.epochs:g} epochs over {units} samples in batches of {self.batch} are {steps} steps"
            raise ValueError(
                f"warmup_steps: expected fewer than the steps of the run, found {self.warmup_steps}; {found}"
            )
        return self.model_copy(update={"steps": steps})

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the result: all settings but `runtime`."""
        return config_hash(self.model_dump(mode="json", exclude={"runtime"}, context=FOR_HASH))


class PredictConfig(BaseModel):
    """How images reach the network. The training fit is the default of every artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fit: Fit = Field(
        default="native",
        description="how an image is resized to `size`: native (not at all), short or long side, or squash (both)",
    )
    size: int = Field(default=128, ge=8, description="what `fit` refers to, in pixels")
    scales: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="factors of the input; logits are averaged over them"
    )
    flip: bool = Field(default=False, description="average with the mirrored image")
    window: int | None = Field(
        default=None, ge=8, description="side of a sliding window in pixels; null = the whole image at once"
    )
    overlap: float = Field(default=0.25, ge=0, lt=1, description="of neighbouring windows, as a share of their side")
    multiple: int = Field(
        default=32, ge=1, description="inputs are padded to multiples of this many pixels; the padding is cut off again"
    )
    batch: int = Field(default=8, ge=1, description="images of one size a forward pass")
