"""How fast a step is, beside what its model alone could do; the model is measured once a process."""

from functools import cache

from maskmill.data_contracts import SAMPLE, list_shards, read_shard
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.timings import StepTime
from maskmill.pipelines.stages.score import ScoreConfig, open_scorer

MODEL = "score"  # the step whose model can be measured alone


def timed(config: RunConfig, name: str, seconds: float, units: int, rows: int) -> StepTime:
    """What a step took for so many units of work. A step that scored also says what its model alone can do."""
    return time_of(name, seconds, units, rows, model_alone(config, name) if units else None)


def time_of(name: str, seconds: float, units: int, rows: int, alone: object) -> StepTime:
    """The same, where the model was measured elsewhere: `alone` is what `model_alone` gave, or anything else where it
    gave nothing. Not to know that rate is no reason to fail.
    """
    device, rate = alone if isinstance(alone, tuple) else ("", None)
    return StepTime(name, round(seconds, 3), units, rows, device, rate)


def model_alone(config: RunConfig, name: str) -> tuple[str, float | None]:
    """Where the model of a step runs, and how many images a second it does with nothing else to do: a few forwards, by
    the engine that is loaded already. ("", None) for steps without such a model, and before anything was ingested.
    """
    shards = list_shards(f"{config.run_dir}/samples") if name == MODEL else []
    return _bare(config.score, config.space.model_dump_json(), shards[0]) if shards else ("", None)


@cache
def _bare(config: ScoreConfig, space_json: str, shard: str) -> tuple[str, float | None]:
    from maskmill.data_contracts import LabelSpace

    scorer = open_scorer(config, LabelSpace.model_validate_json(space_json))
    rate = scorer.bare_rate(read_shard(shard, SAMPLE).slice(0, 16))
    return scorer.device, None if rate is None else round(rate, 2)
