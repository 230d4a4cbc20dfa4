"""`maskmill config show|check|schema`: a config as it will be used, whether it can be, and what it may say."""

import json
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.markup import escape

from maskmill.pipelines.cli.console import out, result, say
from maskmill.pipelines.cli.lazy import ReadableGroup
from maskmill.pipelines.cli.options import ConfigArgument, JsonOption, SetOption
from maskmill.pipelines.core.origins import annotated_yaml, models_in, origins
from maskmill.pipelines.core.settings import (
    ConfigError,
    check_names,
    kind_of,
    load_settings,
    parse_pairs,
    read_settings,
)
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.run.reproduce import Recipe
from maskmill.pipelines.stages.build import BuildConfig
from maskmill.pipelines.stages.label import LabelConfig
from maskmill.pipelines.stages.train import TrainConfig
from maskmill.pipelines.weak.scribbles import ScribbleConfig

MODELS: dict[str, type[BaseModel]] = {
    "run": RunConfig,
    "train": TrainConfig,
    "label": LabelConfig,
    "build": BuildConfig,
    "scribbles": ScribbleConfig,
    "reproduce": Recipe,
}
KindOption = Annotated[
    str | None, typer.Option("--kind", help="run, train, label, build, scribbles or reproduce; default: by keys")
]

app = typer.Typer(
    cls=ReadableGroup, no_args_is_help=True, help="A config: as it will be used, whether it can be, its keys."
)


def load(config: str, overrides: list[str] | None, kind: str | None) -> BaseModel:
    """The config as its kind, which its keys tell where nobody says it."""
    return load_settings(config, MODELS[kind or kind_by_keys(config)], overrides)


def kind_by_keys(config: str) -> str:
    """The kind of a config file or preset."""
    first, _, rest = config.partition("/")
    if rest and first in MODELS:
        return first
    keys = set(read_settings(config))
    for kind, telling in (
        ("train", "trainer"),
        ("label", "labeler"),
        ("build", "train"),
        ("scribbles", "coding"),
        ("reproduce", "paper"),
    ):
        if telling in keys:
            return kind
    return "scribbles" if {"samples", "kind"} <= keys else "run"


@app.command("show")
def show(
    config: ConfigArgument, overrides: SetOption = None, kind: KindOption = None, as_json: JsonOption = False
) -> None:
    """Print a config with everything filled in: what it extends, presets, defaults. $NAMES stay names.

    Behind each value that is no default stands who says it: a file, a preset, or --set.
    """
    loaded = load(config, overrides, kind)
    dumped, models = loaded.model_dump(mode="json"), models_in(loaded)
    for place, settings in _settings(loaded).items():
        models |= models_in(settings, place)
        inner = dumped
        for part in place[:-1]:
            inner = inner[part]
        inner[place[-1]] = settings.model_dump(mode="json")
    given = list(parse_pairs(overrides))
    found = origins(config, kind_of(type(loaded)), given, dumped, models)
    say(escape(annotated_yaml(dumped, found)))
    result(dumped)


def _settings(loaded: BaseModel) -> dict[tuple[str, ...], BaseModel]:
    """The settings of a trainer or labeler, which a config holds as they are given, with everything filled in."""
    if isinstance(loaded, TrainConfig):
        return {("settings",): loaded.trainer_config()}
    if isinstance(loaded, BuildConfig):
        return {("train", "settings"): loaded.train.trainer_config()}
    return {("settings",): loaded.labeler_config()} if isinstance(loaded, LabelConfig) else {}


@app.command("check")
def check(
    config: ConfigArgument, overrides: SetOption = None, kind: KindOption = None, as_json: JsonOption = False
) -> None:
    """Say whether a config can be used: keys, values, kinds, settings of its trainer or labeler, $NAMES."""
    loaded = load(config, overrides, kind)
    check_names(loaded)
    inner: Any = loaded.train if isinstance(loaded, BuildConfig) else loaded
    if isinstance(inner, TrainConfig):
        inner.trainer_config()
    if isinstance(inner, LabelConfig):
        inner.labeler_config()
    say(escape(f"{config}: can be used ({kind or kind_by_keys(config)})"))
    result({"config": config, "kind": kind or kind_by_keys(config), "usable": True})


@app.command("schema")
def schema(
    kind: Annotated[str, typer.Argument(help="run, train, label, build, scribbles or reproduce")] = "run",
) -> None:
    """Print the JSON schema of a kind of config: for editors that complete and check YAML."""
    if kind not in MODELS:
        raise ConfigError(f"{kind!r} is no kind of config; kinds: {', '.join(MODELS)}")
    out.print_json(json.dumps(MODELS[kind].model_json_schema()))
