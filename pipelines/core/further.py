"""Further stages: modules that bring a stage with options of its own into a run."""

from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.core.stage import Stage, Unit
from maskmill.pipelines.core.step import Again, ShardStep, Step


@dataclass(frozen=True)
class RunPlace:
    """What a further stage may know of the run that it is part of: its folder, its classes, its seed, and what is to be
    done again though it is done.
    """

    run_dir: str
    space: LabelSpace
    seed: int
    again: Again

    def step(self, stage: Stage, units: list[Unit]) -> ShardStep:
        """A step of this run whose units write contract shards."""
        return ShardStep(stage, units, self.run_dir, self.again)


class StageModule(Protocol):
    """What the module of a further stage offers; its options stand in a run config as `stages: {NAME: …}`.

    `Config` holds the options; `open_step` gives the step, mostly by `place.step`. Runs whose config names it have it.
    """

    Config: type[BaseModel]

    def open_step(self, config: Any, place: RunPlace) -> Step: ...
