"""The steps of a run, in order, in one table: name → how it is opened. A new stage is one module and one row here."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from pydantic import BaseModel

from maskmill.pipelines.core.further import RunPlace, StageModule
from maskmill.pipelines.core.settings import ConfigError, check_inner
from maskmill.pipelines.core.step import NOTHING, Again, ShardStep, Step
from maskmill.pipelines.run.config import RunConfig

# Engines are imported where a step is opened: each brings its own along, and most commands need few of them.


def _generate(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.stages.generate import generate_stage, generate_units
    from maskmill.pipelines.stages.generate_from_masks import from_masks_stage, generate_from_masks_units

    assert config.generate is not None
    if (masks := config.generate.from_masks) is not None:
        units = generate_from_masks_units(config.run_dir, masks.samples)
        return ShardStep(
            from_masks_stage(masks, config.space, config.seed, config.run_dir), units, config.run_dir, again
        )
    stage = generate_stage(config.generate.generator, config.space, config.seed)
    return ShardStep(stage, generate_units(config.run_dir), config.run_dir, again)


def _ingest(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.ingest.quarantine import Quarantine
    from maskmill.pipelines.ingest.stage import ingest_stage
    from maskmill.pipelines.ingest.unchanged import units_of

    assert config.source is not None
    room = Quarantine(config.run_dir, config.limits.quarantine_bytes) if config.quarantine else None
    stage = ingest_stage(config.source, config.space, quarantine=room)
    units = units_of(stage, config.source, config.run_dir, config.shard_size, fresh=again.recheck)
    return ShardStep(stage, units, config.run_dir, again)


def _study(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.stages.score import study_stage, study_units

    stage = study_stage(config.score, config.space, config.seed)
    return ShardStep(stage, study_units(config.run_dir), config.run_dir, again)


def _learn(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.stages.score import learn_stage, learn_units

    stage = learn_stage(config.score, config.space, config.seed)
    return ShardStep(stage, learn_units(config.run_dir), config.run_dir, again)


def _score(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.stages.score import score_stage, score_units

    return ShardStep(
        score_stage(config.score, config.space, config.seed, config.crf_workers),
        score_units(config.run_dir, config.score.learns),
        config.run_dir,
        again,
    )


def _dedup(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.stages.dedup import dedup_stage, dedup_units

    return ShardStep(dedup_stage(config.dedup), dedup_units(config.run_dir), config.run_dir, again)


def _select(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.run.select_step import SelectStep

    return SelectStep(config, again)


def _downstream_data(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.stages.downstream import test_stage, test_units

    assert config.downstream is not None
    return ShardStep(
        test_stage(config.downstream, config.space),
        test_units(config.downstream, config.run_dir),
        config.run_dir,
        again,
    )


def _downstream(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.run.downstream_step import DownstreamStep

    assert config.downstream is not None
    return DownstreamStep(config, config.downstream, again)


def _export(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.run.export_step import ExportStep

    return ExportStep(config, again)


def _report(config: RunConfig, again: Again) -> Step:
    from maskmill.pipelines.run.report_step import ReportStep

    return ReportStep(config, again)


@dataclass(frozen=True)
class Row:
    """One step: how it is opened, which runs have it, and what else must be known of it.

    `open` is a function, or the name of a `StageModule`: such a step reads its options from `stages: {NAME: …}` of the
    run config, and runs that name it there have it.
    """

    open: Callable[[RunConfig, Again], Step] | str
    command: str = ""  # what `maskmill NAME` says of itself; empty: the step has no command of its own
    wanted: Callable[[RunConfig], bool] = lambda config: True
    every_round: bool = False  # done again in each round of a run that makes its pairs
    model: bool = False  # loads models: under a server it waits for the GPU limit


STEPS: dict[str, Row] = {
    "generate": Row(_generate, wanted=lambda config: config.generate is not None, every_round=True, model=True),
    "ingest": Row(
        _ingest,
        "Read the source into Sample shards; bad samples are recorded with their reasons, the rest goes on.",
        wanted=lambda config: config.source is not None,
    ),
    "study": Row(_study, wanted=lambda config: config.score.learns, every_round=True, model=True),
    "learn": Row(_learn, wanted=lambda config: config.score.learns, every_round=True),
    "score": Row(
        _score,
        "Score every sample with SDS (image: PCS, annotation: ASF); store scores and embedding. Runs `ingest` first.",
        every_round=True,
        model=True,
    ),
    "dedup": Row(
        _dedup,
        "Find near-duplicates by CLIP embedding, within the set and against test sets. Runs the steps before first.",
        every_round=True,
    ),
    "select": Row(
        _select,
        "Decide over stored scores: one reason a sample. Loads no model once scores are there.",
        every_round=True,
    ),
    "downstream-data": Row(_downstream_data, wanted=lambda config: config.downstream is not None),
    "downstream": Row(_downstream, wanted=lambda config: config.downstream is not None, model=True),
    "export": Row(_export, "Write the kept samples as VOC, COCO, YOLO, WebDataset or Hugging Face Parquet."),
    "report": Row(_report, "Write the HTML report: ledger, histograms, galleries by reason, class balance."),
}


def steps_of(config: RunConfig) -> tuple[str, ...]:
    """Names of a run's steps, in order.

    Raises:
        ConfigError: `stages` names one that there is not, or gives it options that it does not have.
    """
    known = [name for name, row in STEPS.items() if isinstance(row.open, str)]
    for name in config.stages:
        if name not in known:
            raise ConfigError(f"stages.{name}: no such stage; stages with options there: {', '.join(known) or 'none'}")
        _options(config, name)
    return tuple(
        name
        for name, row in STEPS.items()
        if (name in config.stages if isinstance(row.open, str) else row.wanted(config))
    )


def check_step(config: RunConfig, name: str) -> None:
    """Nothing, where the run has the step `name`.

    Raises:
        ConfigError: it has not; lists those that it has.
    """
    if name not in steps_of(config):
        raise ConfigError(f"{name!r} is no step of this run; steps: {', '.join(steps_of(config))}")


def open_step(config: RunConfig, name: str, again: Again = NOTHING) -> Step:
    """Step `name` of a run, ready to tell and do its units. Cheap: models are loaded when the first unit
    runs. `again`: what to do again though it is done.

    Raises:
        ConfigError: the run has no such step; lists those that it has.
    """
    check_step(config, name)
    opener = STEPS[name].open
    if not isinstance(opener, str):
        return opener(config, again)
    return _module(name).open_step(_options(config, name), RunPlace(config.run_dir, config.space, config.seed, again))


def _module(name: str) -> StageModule:
    return cast(StageModule, importlib.import_module(str(STEPS[name].open)))


def _options(config: RunConfig, name: str) -> BaseModel:
    return check_inner(config.stages[name], _module(name).Config, f"stages.{name}", f"stage {name}")
