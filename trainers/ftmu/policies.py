"""Who decides: the learned agent, and the fixed policies that it has to beat."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskmill.trainers.ftmu.state import NUMBERS
from maskmill.trainers.ftmu.tracker import KEEP, UPDATE, Ask, Outcome

Float32 = NDArray[np.float32]
LIKENESS = NUMBERS.index("likeness")


class Policy(Protocol):
    """States float32 (k, d) to actions."""

    def act(self, states: Float32) -> list[int]: ...


@dataclass(frozen=True)
class Constant:
    """One action for everything."""

    action: int

    def act(self, states: Float32) -> list[int]:
        return [self.action] * len(states)


class AlwaysUpdate(Constant):
    """Every prediction becomes the template."""

    def __init__(self) -> None:
        super().__init__(UPDATE)


class NeverUpdate(Constant):
    """The template of the first frame stays."""

    def __init__(self) -> None:
        super().__init__(KEEP)


@dataclass
class RandomPolicy:
    """A coin a decision, of `actions` sides; the same coins for the same seed."""

    seed: int
    actions: int = 2

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def act(self, states: Float32) -> list[int]:
        return [int(a) for a in self._rng.integers(self.actions, size=len(states))]


@dataclass(frozen=True)
class Threshold:
    """Update where one number of a `SharedState` is above a level; by default the likeness to the template."""

    level: float
    number: int = LIKENESS

    def act(self, states: Float32) -> list[int]:
        return [UPDATE if value > self.level else KEEP for value in states[:, self.number]]


class Head(nn.Module):
    """States (k, d) to `outputs` numbers: the actor's logits, or the critic's value."""

    def __init__(self, width: int, hidden: Iterable[int], outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.layers(states)
        return found


@dataclass(frozen=True)
class Learned:
    """The actor, greedy."""

    actor: Head

    def act(self, states: Float32) -> list[int]:
        with torch.inference_mode():
            return [int(a) for a in self.actor(torch.from_numpy(states).to(device_of(self.actor))).argmax(1)]


def device_of(net: nn.Module) -> torch.device:
    """Where a network's weights lie: what it is asked must lie there, too."""
    return next(net.parameters()).device


def drive(frame: Generator[Ask, list[int], list[Outcome]], policy: Policy) -> list[Outcome]:
    """Let a policy answer everything that one frame asks."""
    answer: list[int] | None = None
    while True:
        try:
            ask = next(frame) if answer is None else frame.send(answer)
        except StopIteration as end:
            outcomes: list[Outcome] = end.value
            return outcomes
        answer = policy.act(ask.states)
