"""Export as a step of a run: for each format one unit a sample shard, then one for its index files."""

from functools import cached_property

from maskmill.data_contracts.secrets import published
from maskmill.pipelines.core.step import NOTHING, Again, Outcome
from maskmill.pipelines.export.base import Exporter
from maskmill.pipelines.export.runner import (
    RunJson,
    export_shard,
    finish_export,
    why_export,
    why_finish,
)
from maskmill.pipelines.export.units import ExportUnit, export_units
from maskmill.pipelines.run.config import RunConfig


class ExportStep:
    """All formats of a run. Units may run in any order and at once: an index unit first does shards that are left."""

    name = "export"

    def __init__(self, config: RunConfig, again: Again = NOTHING) -> None:
        self._config = config
        self._again = again

    @cached_property
    def _units(self) -> list[ExportUnit | Exporter]:
        formats: tuple[Exporter, ...] = self._config.export
        space = self._config.space
        shards = [unit for one in formats for unit in export_units(self._config.run_dir, one, space)]
        return [*shards, *formats]

    @cached_property
    def _run_config(self) -> RunJson:
        return published(self._config)

    def count(self) -> int:
        return len(self._units)

    def why(self, index: int) -> str | None:
        unit = self._units[index]
        if isinstance(unit, ExportUnit):
            return why_export(unit)
        return why_finish(self._config.run_dir, unit, self._config.space, self._run_config, self._config.name)

    def run(self, index: int) -> Outcome:
        unit = self._units[index]
        if isinstance(unit, ExportUnit):
            report = export_shard(unit)
            return Outcome(report.status, {"exported": report.rows})
        config = self._config
        report = finish_export(config.run_dir, unit, config.space, self._run_config, config.name)
        return Outcome(report.status)
