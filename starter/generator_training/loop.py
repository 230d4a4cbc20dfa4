"""What both trainings share: a clock, checkpoints that are written whole, and a learning rate that can end at any
time.
"""

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

RATE, WARMUP, ATTENTION_WEIGHT, LOG_EVERY, SAVE_EVERY = 1e-3, 200, 0.1, 50, 200
Lesson = TypeVar("Lesson")

_asked_to_stop = threading.Event()


def stop_on_request() -> None:
    """End the turn after the step in hand when the process gets SIGTERM, so that its checkpoint is still written."""
    signal.signal(signal.SIGTERM, lambda *_: _asked_to_stop.set())


@dataclass(frozen=True)
class Turn:
    """One turn of training: it lasts `minutes` from `started` (monotonic seconds); a `last` turn cools the learning
    rate down to 0.
    """

    minutes: float
    last: bool
    started: float

    @classmethod
    def begin(cls, minutes: float, last: bool) -> "Turn":
        return cls(minutes, last, time.monotonic())

    @property
    def spent(self) -> float:
        """Share of this turn that is over, 0..1; all of it once the process was asked to stop."""
        if _asked_to_stop.is_set():
            return 1.0
        return min((time.monotonic() - self.started) / (60 * self.minutes), 1.0)

    def rate(self, step: int, warmup: int) -> float:
        """Factor on the learning rate: linear warm-up, constant, and in the last turn linear down to 0."""
        return min(1.0, (step + 1) / warmup) * ((1 - self.spent) if self.last else 1.0)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.rename(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None on the first turn."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class Average:
    """Exponential moving average of parameters: the weights that are shipped. Warms up so that early steps are
    forgotten.
    """

    def __init__(self, parameters: list[torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in parameters]
        self.parameters = parameters

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters."""
        decay = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)


class Training(ABC, Generic[Lesson]):
    """Modules, optimisers and averaged parameters of a generator, resumed from `path` where that exists."""

    name: ClassVar[str]  # of the first loss, in the log

    def __init__(
        self, path: Path, modules: dict[str, Any], optimisers: Sequence[torch.optim.Optimizer], seed: int = 0
    ) -> None:
        self.path, self.seed, self.step = path, seed, 0
        self.modules, self.optimisers = modules, list(optimisers)
        self.average = Average([p for module in modules.values() for p in module.parameters()], decay=0.998)
        if (state := load_checkpoint(path)) is not None:
            for name, module in modules.items():
                module.load_state_dict(state[name])
            for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(kept)
            self.average.values, self.step = state["average"], state["step"]

    @abstractmethod
    def losses(self, lesson: Lesson) -> tuple[torch.Tensor, torch.Tensor]:
        """What drawing and what maps cost on the batch that belongs to this step."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Whatever must stand around the steps of a turn."""
        yield

    def save(self) -> None:
        """Write the checkpoint."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self.modules.items()}
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        save_checkpoint(self.path, state | {"average": self.average.values, "step": self.step})

    def averaged(self) -> dict[str, Any]:
        """The modules with the averaged weights, for evaluation."""
        with torch.no_grad():
            for parameter, value in zip(self.average.parameters, self.average.values, strict=True):
                parameter.copy_(value)
        return {name: module.eval() for name, module in self.modules.items()}

    def take_turn(self, lesson: Lesson, turn: Turn) -> None:
        """Train until the turn is over, then save."""
        sums = np.zeros(2)
        with self.watching():
            while turn.spent < 1:
                drawing, attention = self.losses(lesson)
                for parameter in self.average.parameters:
                    parameter.grad = None
                torch.autograd.backward(drawing + ATTENTION_WEIGHT * attention)
                torch.nn.utils.clip_grad_norm_(self.average.parameters, 1.0)
                for optimiser in self.optimisers:
                    for group in optimiser.param_groups:
                        group["lr"] = RATE * turn.rate(self.step, WARMUP)
                    optimiser.step()
                self.average.update(self.step)
                self.step += 1
                sums += (float(drawing.detach()), float(attention.detach()))
                if self.step % SAVE_EVERY == 0:
                    self.save()
                if self.step % LOG_EVERY == 0:
                    means = " ".join(f"{value / LOG_EVERY:.4f}" for value in sums)
                    print(f"step {self.step} turn {turn.spent:.0%} {self.name}, attention {means}", flush=True)
                    sums[:] = 0
        self.save()
