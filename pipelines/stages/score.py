"""Stage `score`: Sample shard in, Score shard out, by any scorer."""

import functools
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from maskmill.curation.base import Scorer, ScorerConfig
from maskmill.curation.registry import SCORERS, get_scorer
from maskmill.data_contracts import SAMPLE, SCORE, LabelSpace, Reason, config_hash, list_shards, read_shard
from maskmill.pipelines.core.kinds import Kinds
from maskmill.pipelines.core.stage import Stage, StageResult, Unit

SCORER_KINDS: Kinds[ScorerConfig] = Kinds(
    "scorer", "kind", {name: f"{module}:Config" for name, module in SCORERS.items()}, default="sds"
)
ScoreConfig = Annotated[SerializeAsAny[ScorerConfig], BeforeValidator(SCORER_KINDS.validate)]


def score_stage(config: ScorerConfig, space: LabelSpace, seed: int) -> Stage:
    """Scores of every sample."""

    def process(unit: Unit) -> StageResult:
        table = open_scorer(config, space).score(read_shard(unit.inputs[0], SAMPLE), seed)
        counts: dict[str, int] = {}
        for reason in table.column("reason").to_pylist():
            counts[reason or str(Reason.KEPT)] = counts.get(reason or str(Reason.KEPT), 0) + 1
        return StageResult((table,), counts)

    scorer = get_scorer(config.kind)
    identity = config_hash({**scorer.identity(config), "space": space.fingerprint, "seed": seed})
    return Stage("score", scorer.VERSION, (SCORE,), identity, process)


def score_units(run_dir: str) -> list[Unit]:
    """One unit per Sample shard of the run; `samples/X.parquet` gives `scores/X.parquet`."""
    shards = list_shards(f"{run_dir}/samples")
    outputs = [f"{run_dir}/scores/{path.rsplit('/', 1)[1]}" for path in shards]
    return [Unit((path,), (out,), index=i) for i, (path, out) in enumerate(zip(shards, outputs, strict=True))]


@functools.cache
def _cached_scorer(config: ScorerConfig, space_json: str) -> Scorer:
    return get_scorer(config.kind).load(config, LabelSpace.model_validate_json(space_json))


def open_scorer(config: ScorerConfig, space: LabelSpace) -> Scorer:
    """The scorer, its models loaded once a process."""
    return _cached_scorer(config, space.model_dump_json())
