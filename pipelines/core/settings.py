"""A YAML file or preset as any config model, with overrides."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from maskmill.data_contracts import write_bytes

CONFIGS = Path(__file__).resolve().parents[2] / "configs"  # in a checkout and in an installed copy alike

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A config that cannot be used; says which key, what was expected and what was found."""


def load_settings(path: str, model: type[Model], overrides: Sequence[str] | Mapping[str, Any] | None = None) -> Model:
    """Read a YAML file (or preset) into `model`; $NAMES in it are environment variables.

    `extends: other.yaml` (beside it, or a preset's name) is read first. `overrides` win: ["a.b=value"] as on the
    command line, or {"a.b": value}.

    Raises:
        ConfigError: no such file or preset, an unknown key or a wrong value; lists each with what was found.
    """
    raw = read_settings(path)
    pairs = overrides if isinstance(overrides, Mapping) else parse_pairs(overrides)
    for key, value in pairs.items():
        _put(raw, key, value)
    return check_settings(raw, model, path)


def read_settings(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a YAML file, of a preset, or of a mapping that has been read already, laid over what it extends.

    Raises:
        ConfigError: no such file or preset, or no mapping of keys in it.
    """
    if isinstance(config, Mapping):
        raw = dict(config)
        return raw if (parent := raw.pop("extends", None)) is None else merge(read_settings(str(parent)), raw)
    found = find_config(config)
    raw = yaml.safe_load(os.path.expandvars(found.read_text(encoding="utf-8")))
    if not isinstance(raw, dict):
        raise ConfigError(f"{found}: expected a mapping of config keys, found {type(raw).__name__}")
    if "extends" in raw and (beside := found.parent / str(raw["extends"])).is_file():
        raw["extends"] = str(beside)
    return read_settings(raw)


def check_settings(raw: Mapping[str, Any], model: type[Model], where: str) -> Model:
    """Keys as a config model; `where` is what an error calls them.

    Raises:
        ConfigError: an unknown key or a wrong value; lists each with what was found.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: this config cannot be used:\n{explain_errors(error)}") from error


def save_settings(config: BaseModel, folder: str) -> str:
    """Write a resolved config to FOLDER/config.json, for readers and for tasks in other processes; returns its path."""
    path = f"{folder.rstrip('/')}/config.json"
    write_bytes(path, (config.model_dump_json(indent=2) + "\n").encode())
    return path


def find_config(path: str) -> Path:
    """A file, or the preset of that name in configs/.

    Raises:
        ConfigError: neither; lists the presets.
    """
    for candidate in (Path(path), CONFIGS / path, CONFIGS / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    presets = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    raise ConfigError(f"{path}: no such config file; presets: {presets}")


def explain_errors(error: ValidationError) -> str:
    """One line a fault: key, what is wrong, what was found."""
    lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (found {e.get('input')!r:.80})" for e in error.errors()]
    return "\n".join(lines)


def parse_pairs(items: Sequence[str] | None) -> dict[str, Any]:
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


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` laid over `base` key by key, at every depth. A source, exporter or space of another `kind` replaces."""
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        same_kind = (
            isinstance(old, dict) and isinstance(value, dict) and old.get("kind") == value.get("kind", old.get("kind"))
        )
        merged[key] = merge(old, value) if same_kind and isinstance(old, dict) else value
    return merged


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
    raw[last] = value
