"""Stage `score`: Sample shard in, Score shard out, by any scorer. Two stages before it teach a scorer that learns:
`study`, what each shard teaches, and `learn`, what all of them together have taught.
"""

import functools
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny

from maskmill.curation.base import Scorer, ScorerConfig
from maskmill.curation.registry import SCORERS, get_scorer, load_scorer, scorer_identity
from maskmill.data_contracts import LEARNT, SAMPLE, SCORE, LabelSpace, Reason, config_hash, list_shards, read_shard
from maskmill.pipelines.core.kinds import Kinds
from maskmill.pipelines.core.stage import Stage, StageResult, Unit

SCORER_KINDS: Kinds[ScorerConfig] = Kinds(
    "scorer", "kind", {name: f"{module}:Config" for name, module in SCORERS.items()}, default="sds"
)
LEARNT_FILE = "learnt.parquet"
ScoreConfig = Annotated[SerializeAsAny[ScorerConfig], BeforeValidator(SCORER_KINDS.validate)]


def score_stage(config: ScorerConfig, space: LabelSpace, seed: int, workers: int | None = None) -> Stage:
    """Scores of every sample; `workers` are processes for dense CRFs, and change no score."""

    def process(unit: Unit) -> StageResult:
        engine = open_scorer(config, space)
        if config.learns:
            engine = engine.taught(read_shard(unit.inputs[1], LEARNT))
        engine.workers = workers
        table = engine.score(read_shard(unit.inputs[0], SAMPLE), seed)
        counts: dict[str, int] = {}
        for reason in table.column("reason").to_pylist():
            counts[reason or str(Reason.KEPT)] = counts.get(reason or str(Reason.KEPT), 0) + 1
        return StageResult((table,), counts)

    scorer = get_scorer(config.kind)
    return Stage("score", scorer.VERSION, (SCORE,), _identity(config, space, seed), process)


def _identity(config: ScorerConfig, space: LabelSpace, seed: int) -> str:
    return config_hash({**scorer_identity(config), "space": space.fingerprint, "seed": seed})


def score_units(run_dir: str, learns: bool = False) -> list[Unit]:
    """One unit per Sample shard of the run; `samples/X.parquet` gives `scores/X.parquet`. Of a scorer that learns each
    unit also reads `learnt.parquet`.
    """
    shards = list_shards(f"{run_dir}/samples")
    more = (f"{run_dir}/{LEARNT_FILE}",) if learns else ()
    outputs = [f"{run_dir}/scores/{path.rsplit('/', 1)[1]}" for path in shards]
    return [Unit((path, *more), (out,), index=i) for i, (path, out) in enumerate(zip(shards, outputs, strict=True))]


def study_stage(config: ScorerConfig, space: LabelSpace, seed: int) -> Stage:
    """What a Sample shard teaches a scorer that learns."""

    def process(unit: Unit) -> StageResult:
        samples = read_shard(unit.inputs[0], SAMPLE)
        table = open_scorer(config, space).study(samples, seed)
        return StageResult((table,), {str(Reason.KEPT): samples.num_rows})

    return Stage("study", get_scorer(config.kind).VERSION, (LEARNT,), _identity(config, space, seed), process)


def study_units(run_dir: str) -> list[Unit]:
    """One unit per Sample shard of the run; `samples/X.parquet` gives `study/X.parquet`."""
    shards = list_shards(f"{run_dir}/samples")
    outputs = [f"{run_dir}/study/{path.rsplit('/', 1)[1]}" for path in shards]
    return [Unit((path,), (out,), index=i) for i, (path, out) in enumerate(zip(shards, outputs, strict=True))]


def learn_stage(config: ScorerConfig, space: LabelSpace, seed: int) -> Stage:
    """What all shards together have taught; one shard's study is in memory at a time."""

    def process(unit: Unit) -> StageResult:
        studies = (read_shard(path, LEARNT) for path in unit.inputs)
        return StageResult((open_scorer(config, space).conclude(studies),), {})

    return Stage("learn", get_scorer(config.kind).VERSION, (LEARNT,), _identity(config, space, seed), process)


def learn_units(run_dir: str) -> list[Unit]:
    """One unit: every study shard to RUN/learnt.parquet. [] before anything is studied."""
    shards = list_shards(f"{run_dir}/study")
    return [Unit(tuple(shards), (f"{run_dir}/{LEARNT_FILE}",))] if shards else []


@functools.cache
def _cached_scorer(config: ScorerConfig, space_json: str) -> Scorer:
    return load_scorer(config, LabelSpace.model_validate_json(space_json))


def open_scorer(config: ScorerConfig, space: LabelSpace) -> Scorer:
    """The scorer, its models loaded once a process."""
    return _cached_scorer(config, space.model_dump_json())
