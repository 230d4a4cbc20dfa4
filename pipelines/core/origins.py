"""Where each value of a resolved config comes from: --set, a file, a file that it extends, a preset, a default."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from maskmill.data_contracts import WithPresets
from maskmill.pipelines.core.settings import find_config, read_yaml

DEFAULT = "default"
Parts = tuple[str, ...]


def layers_of(config: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """The keys of a config file or preset and of what it extends, each under its file's name; what wins comes first."""
    found = find_config(config, kind)
    raw = read_yaml(found.read_text(encoding="utf-8"), str(found)) or {}
    parent = raw.pop("extends", None)
    own = [(found.name, raw)]
    if parent is None:
        return own
    beside = found.parent / str(parent)
    return own + layers_of(str(beside) if beside.is_file() else str(parent), kind)


def origin_of(
    parts: Parts,
    given: Sequence[str],
    layers: Sequence[tuple[str, Mapping[str, Any]]],
    models: Mapping[Parts, BaseModel],
) -> str:
    """Who says the value at `parts`. `given` are the keys of --set; `models` the config's models by their place."""
    if any(_covers(tuple(key.split(".")), parts) for key in given):
        return "--set"
    for name, keys in layers:
        if _says(keys, parts):
            return name
    for depth in range(len(parts) - 1, -1, -1):
        model = models.get(parts[:depth])
        preset = getattr(model, "preset", None)
        own = model.presets.get(str(preset), {}) if isinstance(model, WithPresets) else {}
        if own and _says(own, parts[depth:]):
            return f"preset {preset}"
    return DEFAULT


def _covers(key: Parts, parts: Parts) -> bool:
    return parts[: len(key)] == key or key[: len(parts)] == parts


def _says(keys: Any, parts: Parts) -> bool:
    """Whether nested keys hold a value at `parts`, or one above it that is whole."""
    if isinstance(keys, BaseModel):
        keys = keys.model_dump(exclude_unset=True)
    if not isinstance(keys, Mapping) or not parts:
        return True
    return parts[0] in keys and _says(keys[parts[0]], parts[1:])


def models_in(value: Any, place: Parts = ()) -> dict[Parts, BaseModel]:
    """The models in a model, by their place."""
    if not isinstance(value, BaseModel):
        return {}
    found: dict[Parts, BaseModel] = {place: value}
    for name in type(value).model_fields:
        found |= models_in(getattr(value, name), (*place, name))
    return found


def annotated_yaml(dumped: Mapping[str, Any], origin: Mapping[Parts, str], place: Parts = ()) -> str:
    """The config as YAML, the origin of each value in a comment behind it; defaults have none."""
    lines = []
    for key, value in dumped.items():
        here, indent = (*place, key), "  " * len(place)
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:\n{annotated_yaml(value, origin, here)}")
            continue
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        words = origin.get(here, DEFAULT)
        comment = "" if words == DEFAULT else f"  # {words}"
        lines.append(f"{indent}{key}: {text.removesuffix('...' + chr(10)).strip()}{comment}")
    return "\n".join(lines)


def leaves(dumped: Mapping[str, Any], place: Parts = ()) -> list[Parts]:
    """The places of all values that are no mapping, or an empty one."""
    found: list[Parts] = []
    for key, value in dumped.items():
        here = (*place, str(key))
        found += leaves(value, here) if isinstance(value, Mapping) and value else [here]
    return found


def origins(
    config: str, kind: str, given: Sequence[str], dumped: Mapping[str, Any], models: Mapping[Parts, BaseModel]
) -> dict[Parts, str]:
    """The origin of every value of a resolved config."""
    layers = layers_of(config, kind)
    return {parts: origin_of(parts, given, layers, models) for parts in leaves(dumped)}
