"""Runs and trainings as calls: what `maskmill run`, `plan` and `train` do, with frames and objects to go on with."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, TypeVar

import polars as pl
from pydantic import BaseModel

from maskmill.artifacts import Segmenter
from maskmill.data_contracts import merge
from maskmill.pipelines.core.settings import check_names, check_settings, kind_of, read_settings
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.run import Progress
from maskmill.pipelines.run.run import plan as plan_run
from maskmill.pipelines.run.run import run as run_all
from maskmill.pipelines.stages.build import BuildConfig, build_segmenter
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.runs import Run, load_run

Config = TypeVar("Config", bound=BaseModel)
Given = str | PathLike[str] | Mapping[str, Any]


def run(config: Given | RunConfig, *, progress: Progress | None = None, **overrides: Any) -> Run:
    """Do a whole run, source → scores → duplicates → selection → export → report; what is done already is skipped.

    Args:
        config: a YAML file, the name of a preset ("planted-faults"), a mapping of the same keys (`extends` works), or a
            `RunConfig`.
        progress: called after each unit of work with step, units done, units in all, and the unit's `Outcome`.
        overrides: keys of the config that win. A mapping is laid over what is there, key by key:
            `source={"root": "photos"}`; two underscores stand for the dot of `--set`: `select__rho=0.7`.

    Returns:
        The run folder as `load_run` opens it.

    Raises:
        ConfigError (a ValueError): no such file or preset, an unknown key or a wrong value.
        FileNotFoundError: the source is not there. RunLockedError: another process works in this run folder.
    """
    wanted = _resolved(config, RunConfig, overrides)
    run_all(wanted, progress=progress)
    return load_run(wanted.run_dir)


def plan(config: Given | RunConfig, **overrides: Any) -> pl.DataFrame:
    """What `run` would do now; writes nothing. `config` and `overrides` as there.

    Returns:
        One row a step, in order: `step`, `units` (shards, mostly), `to_run` (those not done yet), `why` (in words). A
        step behind one that has work has no units yet: they are known once that has run.

    Raises:
        ConfigError (a ValueError): no such file or preset, an unknown key or a wrong value.
        FileNotFoundError: the source is not there.
    """
    lines = plan_run(_resolved(config, RunConfig, overrides))
    schema = {"step": pl.String, "units": pl.Int64, "to_run": pl.Int64, "why": pl.String}
    return pl.DataFrame([(line.step, line.units, line.to_run, line.words) for line in lines], schema, orient="row")


def train(config: Given | TrainConfig, out: str | PathLike[str], **overrides: Any) -> Segmenter:
    """Train a segmenter on contract shards, and test it where `val` names data; a finished training is skipped.

    Args:
        config: trainer, label_space, data, val, settings: a YAML file, a preset ("train/weclip"), a mapping, or a
            `TrainConfig`.
        out: local folder: OUT/artifact is what `load_artifact` opens, OUT/evaluation holds metrics and overlays.
        overrides: as in `run`: `settings={"steps": 400}`, or `settings__steps=400`.

    Returns:
        The trained segmenter, with its metrics.

    Raises:
        ConfigError (a ValueError): unknown trainer, key or setting. ValueError: no usable sample.
        FileNotFoundError: data that is not there.
    """
    wanted = _resolved(config, TrainConfig, overrides)
    result = build_segmenter(BuildConfig(train=wanted), str(out))
    return Segmenter(result.artifact, wanted.trainer_config().runtime.device, result.metrics or None)


def _resolved(config: Given | BaseModel, model: type[Config], overrides: Mapping[str, Any]) -> Config:
    """The config with `overrides` laid over it.

    Raises:
        ConfigError: see `run`. TypeError: neither a path nor a mapping nor a config.
    """
    if isinstance(config, model) and not overrides:
        return config
    top: dict[str, Any] = {}
    for key, value in overrides.items():
        value = _plain(value)
        for part in reversed(key.replace("__", ".").split(".")):
            value = {part: value}
        top = merge(top, value)
    where = model.__name__
    if isinstance(config, BaseModel):
        # A dump states every option. A preset that is asked for anew starts its block afresh, or nothing would change.
        given = config.model_dump(mode="json")
        raw = {key: value for key, value in given.items() if not _names_preset(top.get(key))}
    elif isinstance(config, Mapping):
        raw = read_settings(_plain(config), kind_of(model))
    elif isinstance(config, str | PathLike):
        where = str(config)
        raw = read_settings(where, kind_of(model))
    else:
        raise TypeError(f"config: expected a path, a preset, a mapping or a {where}, found {type(config).__name__}")
    wanted = check_settings(merge(raw, top), model, where)
    check_names(wanted)
    return wanted


def _names_preset(block: Any) -> bool:
    return isinstance(block, Mapping) and "preset" in block


def _plain(value: Any) -> Any:
    """Paths as the strings that a YAML file would hold, at every depth."""
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
