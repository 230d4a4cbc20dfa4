"""Stage `score`: Sample shard in, Score shard out."""

import functools

from curation.sds import Engine, SdsConfig, make_engine, score_rows
from data_contracts import SAMPLE, SCORE, LabelSpace, Reason, config_hash, list_shards, read_shard
from pipelines.stage import Stage, StageResult, Unit
from vision.clip import clip_fingerprint
from vision.refine import crf_backend

VERSION = 1


def score_stage(config: SdsConfig, space: LabelSpace, seed: int, *, batch_size: int = 16, workers: int = 1) -> Stage:
    """SDS scores of every sample. `batch_size` and `workers` (processes for the CRF) change speed, never a score."""

    def process(unit: Unit) -> StageResult:
        samples = read_shard(unit.inputs[0], SAMPLE)
        table = score_rows(samples, _engine(config, space), seed, batch_size, workers)
        counts: dict[str, int] = {}
        for reason in table.column("reason").to_pylist():
            counts[reason or str(Reason.KEPT)] = counts.get(reason or str(Reason.KEPT), 0) + 1
        return StageResult((table,), counts)

    return Stage("score", VERSION, (SCORE,), _hash(config, space, seed), process)


def score_units(run_dir: str) -> list[Unit]:
    """One unit per Sample shard of the run; `samples/X.parquet` gives `scores/X.parquet`."""
    shards = list_shards(f"{run_dir}/samples")
    outputs = [f"{run_dir}/scores/{path.rsplit('/', 1)[1]}" for path in shards]
    return [Unit((path,), (out,), index=i) for i, (path, out) in enumerate(zip(shards, outputs, strict=True))]


def _hash(config: SdsConfig, space: LabelSpace, seed: int) -> str:
    """Covers all that a score depends on: options, label space, seed, the model's weights, and the CRF that is
    installed.
    """
    model = clip_fingerprint(config.model, config.pretrained, config.precision)
    backend = {"crf": crf_backend("auto"), "mean_field": "mean_field"}.get(config.refine, config.refine)
    options = config.model_dump(mode="json")
    return config_hash({"sds": options, "space": space.fingerprint, "seed": seed, "model": model, "refine": backend})


@functools.cache
def _cached_engine(config: SdsConfig, space_json: str) -> Engine:
    return make_engine(config, LabelSpace.model_validate_json(space_json))


def _engine(config: SdsConfig, space: LabelSpace) -> Engine:
    return _cached_engine(config, space.model_dump_json())
