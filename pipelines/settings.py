"""A YAML file as any config model, with overrides from the command line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape

from data_contracts import write_bytes
from pipelines.config import ConfigError, find_config

Model = TypeVar("Model", bound=BaseModel)


def load_settings(path: str, model: type[Model], overrides: list[str] | None = None) -> Model:
    """Read a YAML file (or preset) into `model`; $NAMES are environment variables, `overrides` ("a.b=value") win.

    Raises:
        ConfigError: no such file, an unknown key or a wrong value; lists each with what was found.
    """
    raw = yaml.safe_load(os.path.expandvars(find_config(path).read_text(encoding="utf-8")))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of config keys, found {type(raw).__name__}")
    for key, value in parse_pairs(overrides).items():
        _put(raw, key, value)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: this config cannot be used:\n{explain_errors(error)}") from error


def save_settings(config: BaseModel, folder: str) -> str:
    """Write a resolved config to FOLDER/config.json, for readers and for tasks in other processes; returns its path."""
    path = f"{folder.rstrip('/')}/config.json"
    write_bytes(path, (config.model_dump_json(indent=2) + "\n").encode())
    return path


def explain_errors(error: ValidationError) -> str:
    """One line a fault: key, what is wrong, what was found."""
    lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (found {e.get('input')!r:.80})" for e in error.errors()]
    return "\n".join(lines)


def parse_pairs(items: list[str] | None) -> dict[str, Any]:
    """["a.b=0.9"] to {"a.b": 0.9}; values are YAML.

    Raises:
        ConfigError: an item without `=`.
    """
    pairs: dict[str, Any] = {}
    for item in items or []:
        key, mark, value = item.partition("=")
        if not mark:
            raise ConfigError(f"--set {item}: expected KEY=VALUE, e.g. --set refine=crf")
        pairs[key] = yaml.safe_load(value)
    return pairs


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
    raw[last] = value


@contextmanager
def readable_errors(console: Console) -> Iterator[None]:
    """Errors that a user can mend are printed without a traceback, and end with exit status 2."""
    try:
        yield
    except ValidationError as error:
        _stop(console, f"these settings cannot be used:\n{explain_errors(error)}", error)
    except (ValueError, OSError, KeyError) as error:
        _stop(console, str(error.args[0] if isinstance(error, KeyError) and error.args else error), error)


def _stop(console: Console, message: str, cause: Exception) -> None:
    console.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2) from cause
