"""What both trainings share: a clock, checkpoints that are written whole, and a learning rate that can end at any
time.
"""

import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
