"""What a step of a run is: units that are done or not, and words for why one must run."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import fsspec
from pydantic import BaseModel

from maskmill.data_contracts import LabelSpace, list_shards
from maskmill.pipelines.core.stage import Stage, Unit, run_unit, why_run


@dataclass(frozen=True)
class Outcome:
    """How one unit of a step ended: `written` or `skipped`, and the samples that it saw, by reason."""

    status: str
    counts: dict[str, int] = field(default_factory=dict)


class Step(Protocol):
    """One stage of a run over all its units."""

    name: str

    def count(self) -> int:
        """Number of units. Known only when the steps before are done."""

    def why(self, index: int) -> str | None:
        """Why unit `index` must run, in words; None when it is done."""

    def run(self, index: int) -> Outcome:
        """Do unit `index` unless it is done."""


class ShardStep:
    """A step whose units write contract shards."""

    def __init__(self, stage: Stage, units: list[Unit]) -> None:
        self.name = stage.name
        self._stage = stage
        self._units = units

    def count(self) -> int:
        return len(self._units)

    def why(self, index: int) -> str | None:
        return why_run(self._stage, self._units[index])

    def run(self, index: int) -> Outcome:
        report = run_unit(self._stage, self._units[index])
        return Outcome(report.status, report.counts)

    def folders(self) -> set[str]:
        """Folders that this step writes to."""
        return {path.rsplit("/", 1)[0] for unit in self._units for path in unit.outputs}

    def drop_orphans(self, run_dir: str) -> None:
        """Remove shards of an earlier, longer run that no unit writes any more; the run folder itself is left alone."""
        wanted = {path for unit in self._units for path in unit.outputs}
        for folder in self.folders() - {run_dir.rstrip("/")}:
            fs, _ = fsspec.core.url_to_fs(folder)
            for path in list_shards(folder):
                if path.rsplit("/", 1)[-1] not in {w.rsplit("/", 1)[-1] for w in wanted}:
                    fs.rm_file(path)


@dataclass(frozen=True)
class RunPlace:
    """What a stage may know of the run that it is part of: its folder, its classes, its seed."""

    run_dir: str
    space: LabelSpace
    seed: int


class StageModule(Protocol):
    """What the module of a stage offers whose options stand in a run config as `stages: {NAME: …}`.

    `Config` holds the options; `open_step` gives the step, mostly a `ShardStep`. A run has the step if its config names
    it.
    """

    Config: type[BaseModel]

    def open_step(self, config: Any, place: RunPlace) -> Step: ...
