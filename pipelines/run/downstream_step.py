"""Training on subsets as a step of a run: one unit a subset."""

from maskmill.data_contracts import LabelSpace
from maskmill.pipelines.core.stage import Stage, Unit, run_unit, why_run
from maskmill.pipelines.core.step import NOTHING, Again, Outcome
from maskmill.pipelines.run.config import FROM_SOURCE, RunConfig
from maskmill.pipelines.stages.build import BuildConfig, build_segmenter, why_build
from maskmill.pipelines.stages.downstream import DownstreamConfig, subset_stage
from maskmill.pipelines.stages.train import TrainConfig


class DownstreamStep:
    """One unit a subset: train, test, into RUN/downstream/SUBSET. A unit that was cut off goes on from its
    checkpoint.
    """

    name = "downstream"

    def __init__(self, config: RunConfig, downstream: DownstreamConfig, again: Again = NOTHING) -> None:
        self._config = config
        self._again = again
        self._downstream = downstream

    def count(self) -> int:
        return len(self._downstream.subsets)

    def why(self, index: int) -> str | None:
        """Why the subset's segmenter must be trained or tested; None when it is done."""
        stage, unit = self._decisions(index)
        return why_run(stage, unit) or why_build(self._build(index), self._folder(index))

    def run(self, index: int) -> Outcome:
        if self.why(index) is None:
            return Outcome("skipped")
        run_unit(*self._decisions(index))
        build_segmenter(self._build(index), self._folder(index))
        return Outcome("written")

    def _folder(self, index: int) -> str:
        return f"{self._config.run_dir}/downstream/{self._downstream.subsets[index]}"

    def _decisions(self, index: int) -> tuple[Stage, Unit]:
        stage = subset_stage(self._downstream.subsets[index], self._config.seed)
        return stage, Unit(
            (f"{self._config.run_dir}/decisions.parquet",), (f"{self._folder(index)}/decisions.parquet",)
        )

    def _build(self, index: int) -> BuildConfig:
        run_dir, downstream = self._config.run_dir, self._downstream
        data = {"samples": f"{run_dir}/samples", "decisions": f"{self._folder(index)}/decisions.parquet"}
        train = TrainConfig.model_validate(
            {
                "trainer": downstream.trainer,
                "label_space": _space(self._config),
                "data": data,
                "settings": downstream.settings,
            }
        )
        test = {"samples": f"{run_dir}/downstream/test/samples"}
        return BuildConfig.model_validate({"train": train, "test": test, "overlays": downstream.overlays})


def _space(config: RunConfig) -> LabelSpace | str | None:
    """The label space as the config names it; itself where only the run's source knows it."""
    return config.space if config.label_space == FROM_SOURCE else config.label_space
