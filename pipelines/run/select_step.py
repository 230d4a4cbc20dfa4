"""Selection as a step of a run: one unit, which also depends on what people said in review."""

from maskmill.data_contracts import read_footer
from maskmill.pipelines.core.stage import INPUT_CHANGED, unit_inputs
from maskmill.pipelines.core.step import NOTHING, Again, ShardStep
from maskmill.pipelines.core.verdicts import news, read_reviewed
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.stages.select import select_stage, select_units


class SelectStep(ShardStep):
    """Decides anew where scores, settings or verdicts changed, and says how many verdicts are new."""

    def __init__(self, config: RunConfig, again: Again = NOTHING) -> None:
        reviewed = read_reviewed(config.run_dir)
        stage = select_stage(config.select, config.space, reviewed)
        super().__init__(stage, select_units(config.run_dir, reviewed), config.run_dir, again)

    def why(self, index: int) -> str | None:
        said = super().why(index)
        if said is None or not (number := news(self._run_dir)):
            return said
        words = f"{number:,} new verdict{'s' if number > 1 else ''}"
        return words if said == INPUT_CHANGED and self._only_verdicts(index) else f"{said}, and {words}"

    def _only_verdicts(self, index: int) -> bool:
        """Whether the scores and pairs are those that the decisions were made from."""
        unit = self._units[index]
        footer = read_footer(unit.outputs[0])
        shards = unit_inputs(unit)[: len(unit.inputs)]
        return footer is not None and footer.inputs[: len(shards)] == shards
