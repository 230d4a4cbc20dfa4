"""What a step of a run is: units that are done or not, and words for why one must run."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from maskmill.data_contracts import Reason, changes, read_footer, shard_fault
from maskmill.pipelines.core.belongings import Belongings
from maskmill.pipelines.core.stage import Stage, Unit, run_unit, why_run
from maskmill.pipelines.core.touched import is_touched

logger = logging.getLogger("maskmill")


@dataclass(frozen=True)
class Again:
    """What to do again though it is done. `verify`: look at every byte of every shard. `recheck`: also read the source
    again. `retry`: units that recorded rejects for one of these reasons. `replace`: the folder of another source.
    """

    verify: bool = False
    recheck: bool = False
    retry: frozenset[str] = frozenset()
    replace: bool = False


NOTHING = Again()
TASKS = 256  # of a step at most


def groups_of(total: int) -> tuple[list[int], list[int]]:
    """Shards cut into a few hundred tasks, for a server keeps each for ever: where each begins, how many it has."""
    size = max(1, -(-total // TASKS))
    starts = list(range(0, total, size))
    return starts, [min(size, total - start) for start in starts]


def asked(recheck: bool, retry: Iterable[str] | None, replace: bool = False) -> Again:
    """What a person asks to be done again.

    Raises:
        ValueError: a reason that no reject can have; lists them.
    """
    reasons = frozenset(retry or ())
    if unknown := reasons - set(Reason):
        known = ", ".join(reason for reason in Reason if reason is not Reason.KEPT)
        raise ValueError(f"--retry {min(unknown)}: no such reason; reasons: {known}")
    return Again(recheck=recheck, retry=reasons, replace=replace)


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
    """A step whose units write contract shards into a run folder."""

    def __init__(self, stage: Stage, units: list[Unit], run_dir: str, again: Again = NOTHING) -> None:
        self.name = stage.name
        self._stage = stage
        self._units = units
        self._run_dir = run_dir.rstrip("/")
        self._again = again

    def count(self) -> int:
        return len(self._units)

    def why(self, index: int) -> str | None:
        unit = self._units[index]
        return why_run(self._stage, unit) or self._why_again(unit)

    def run(self, index: int) -> Outcome:
        unit = self._units[index]
        again = None if why_run(self._stage, unit) else self._why_again(unit)
        if again:
            logger.warning("%s: %s; made again", unit.outputs[0], again)
        report = run_unit(self._stage, unit, again=again is not None)
        return Outcome(report.status, report.counts)

    def _why_again(self, unit: Unit) -> str | None:
        """Why a unit that is done by its footers must be done again: damage, or because somebody asked."""
        for path in unit.outputs:
            thorough = self._again.verify or self._again.recheck or is_touched(path, f"{self._run_dir}/manifest.json")
            if thorough and (fault := shard_fault(path)):
                return f"damaged ({path.rsplit('/', 1)[-1]}: {fault})"
        if self._again.recheck and not unit.inputs:
            return "its source is read again"
        footer = read_footer(unit.outputs[-1]) if len(unit.outputs) > 1 else None
        reasons = self._again.retry & {reason for reason, rows in (footer.counts if footer else {}).items() if rows}
        return f"rejects are tried again ({', '.join(sorted(reasons))})" if reasons else None

    def note(self, index: int) -> str | None:
        """What a person should know of a finished unit: other versions of libraries, too like to make it again."""
        footer = read_footer(self._units[index].outputs[0])
        changed = changes(footer.made_with) if footer else []
        return f"made with {'; '.join(changed)}" if changed else None

    def folders(self) -> set[str]:
        """Folders that this step writes to."""
        return {path.rsplit("/", 1)[0] for unit in self._units for path in unit.outputs}

    def drop_orphans(self) -> None:
        """Remove shards of an earlier, longer run of this folder that no unit writes any more.

        Raises:
            ForeignFileError: a Parquet file among them that no run of this folder wrote; nothing is removed then.
        """
        Belongings(self._run_dir).claim(self._stage, [path for unit in self._units for path in unit.outputs])
