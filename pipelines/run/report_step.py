"""The report as a step of a run: one unit."""

from maskmill.data_contracts.secrets import published
from maskmill.pipelines.core.index import recall_footers
from maskmill.pipelines.core.step import NOTHING, Again, Outcome
from maskmill.pipelines.report.write import why_report, write_report
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.fit import note_fit


class ReportStep:
    """Writes RUN/report/index.html unless the one that is there shows this very run."""

    name = "report"

    def __init__(self, config: RunConfig, again: Again = NOTHING) -> None:
        self._config = config
        self._again = again

    def count(self) -> int:
        return 1

    def why(self, index: int) -> str | None:
        config = self._config
        return why_report(config.run_dir, config.report, config.space, published(config), config.name)

    def run(self, index: int) -> Outcome:
        if self.why(index) is None:
            return Outcome("skipped")
        config = self._config
        recall_footers(config.run_dir)
        note_fit(config)
        write_report(config.run_dir, config.report, config.space, run_config=published(config), title=config.name)
        return Outcome("written")
