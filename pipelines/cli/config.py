"""`maskmill config show|check|schema`: a config as it will be used, whether it can be, and what it may say."""

import json
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from rich.markup import escape

from maskmill.pipelines.cli.console import out, result, say
from maskmill.pipelines.cli.lazy import ReadableGroup
from maskmill.pipelines.cli.options import ConfigArgument, JsonOption, SetOption
from maskmill.pipelines.core.settings import ConfigError, check_names, load_settings, read_settings
from maskmill.pipelines.run.config import RunConfig
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
}
KindOption = Annotated[
    str | None, typer.Option("--kind", help="run, train, label, build or scribbles; default: by keys")
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
    for kind, telling in (("train", "trainer"), ("label", "labeler"), ("build", "train"), ("scribbles", "coding")):
        if telling in keys:
            return kind
    return "scribbles" if {"samples", "kind"} <= keys else "run"


@app.command("show")
def show(
    config: ConfigArgument, overrides: SetOption = None, kind: KindOption = None, as_json: JsonOption = False
) -> None:
    """Print a config with everything filled in: what it extends, presets, defaults. $NAMES stay names."""
    dumped = load(config, overrides, kind).model_dump(mode="json")
    say(escape(yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True)).rstrip())
    result(dumped)


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
    kind: Annotated[str, typer.Argument(help="run, train, label, build or scribbles")] = "run",
) -> None:
    """Print the JSON schema of a kind of config: for editors that complete and check YAML."""
    if kind not in MODELS:
        raise ConfigError(f"{kind!r} is no kind of config; kinds: {', '.join(MODELS)}")
    out.print_json(json.dumps(MODELS[kind].model_json_schema()))
