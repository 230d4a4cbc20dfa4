"""A YAML file or preset as any config model, with overrides."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from maskmill.data_contracts import merge, write_if_changed
from maskmill.data_contracts.secrets import credentials_at, expand, published
from maskmill.data_contracts.sums import CHECK, checked_json
from maskmill.data_contracts.words import close_to, did_you_mean
from maskmill.pipelines.core.deployment import check_offered, from_afar
from maskmill.pipelines.core.hints import meant

CONFIGS = Path(__file__).resolve().parents[2] / "configs"  # in a checkout and in an installed copy alike
KINDS = {  # folder of presets: the key by which a config of this kind is known, and the command that takes it
    "": (("source", "generate", "run_dir"), "maskmill run"),
    "train": (("trainer",), "maskmill train"),
    "label": (("labeler",), "maskmill label shards"),
    "build": (("train",), "maskmill build"),
    "scribbles": (("coding", "simulate"), "maskmill label read-scribbles"),
}
UNSET = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A config that cannot be used; says which key, what was expected and what was found."""


def load_settings(path: str, model: type[Model], overrides: Sequence[str] | Mapping[str, Any] | None = None) -> Model:
    """Read a YAML file (or preset) into `model`; $NAMES in it are environment variables (see `secrets.expand`).

    `extends: other.yaml` (beside it, or a preset's name) is read first. `overrides` win: ["a.b=value"] as on the
    command line, or {"a.b": value}. A model's PRESETS names the folder in configs/ that holds presets of its kind.

    Raises:
        ConfigError: no such file or preset, an unknown key or a wrong value; lists each with what was found.
    """
    raw = read_settings(path, kind_of(model))
    pairs = overrides if isinstance(overrides, Mapping) else parse_pairs(overrides)
    for key, value in pairs.items():
        _put(raw, key, value)
    return check_settings(raw, model, path)


def kind_of(model: type[BaseModel]) -> str:
    """The folder in configs/ with presets of this kind of config; "" for runs."""
    return str(getattr(model, "PRESETS", ""))


def read_settings(config: str | Mapping[str, Any], kind: str = "") -> dict[str, Any]:
    """The keys of a YAML file, of a preset, or of a mapping that has been read already, laid over what it extends.

    Raises:
        ConfigError: no such file or preset, no YAML, or no mapping of keys in it.
    """
    if isinstance(config, Mapping):
        raw = dict(config)
        return raw if (parent := raw.pop("extends", None)) is None else merge(read_settings(str(parent), kind), raw)
    found = find_config(config, kind)
    raw = expand(read_yaml(found.read_text(encoding="utf-8"), str(found)))
    if not isinstance(raw, dict):
        raise ConfigError(f"{found}: expected a mapping of config keys, found {type(raw).__name__}")
    raw.pop(CHECK, None)  # a config.json that a run wrote
    if "extends" in raw and (beside := found.parent / str(raw["extends"])).is_file():
        raw["extends"] = str(beside)
    return read_settings(raw, kind)


def read_yaml(text: str, where: str) -> Any:
    """The value that a YAML text holds; `where` is what an error calls it.

    Raises:
        ConfigError: no YAML (says line and column), nested too deeply, or a number that is too long.
    """
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: not YAML that can be read: {str(error) or type(error).__name__}") from error


def check_settings(raw: Mapping[str, Any], model: type[Model], where: str) -> Model:
    """Keys as a config model; `where` is what an error calls them.

    Raises:
        ConfigError: an unknown key or a wrong value; lists each with what was found.
    """
    if key := credentials_at(raw):
        found = f"{key}: expected a URL without user, password or token, which would be published with the config"
        raise ConfigError(f"{where}: {found}; put the URL into an environment variable and write {key}: $NAME")
    for space in _files_of_spaces(raw):
        check_offered(Path(space), CONFIGS)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = _other_kind(raw, model) or f"\n{explain_errors(error, model, raw)}"
        raise ConfigError(f"{where}: this config cannot be used:{faults}") from error
    except (OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: this config cannot be used: {error}") from error


def _files_of_spaces(raw: Any) -> Iterator[str]:
    """Label spaces that a config names by a file."""
    items = raw.items() if isinstance(raw, Mapping) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in items:
        if key == "label_space" and isinstance(value, str) and ("/" in value or "." in value):
            yield value
        yield from _files_of_spaces(value)


def _other_kind(raw: Mapping[str, Any], model: type[BaseModel]) -> str:
    """A hint where the keys are those of another kind of config."""
    own = kind_of(model)
    for kind, (keys, command) in KINDS.items():
        if kind != own and not set(keys) & set(model.model_fields) and set(keys) & set(raw):
            return f" it is one for `{command}`, not for `{KINDS[own][1]}`"
    return ""


def save_settings(config: BaseModel, folder: str) -> str:
    """Write a resolved config to FOLDER/config.json, for readers and for tasks in other processes; returns its path."""
    path = f"{folder.rstrip('/')}/config.json"
    write_if_changed(path, checked_json(published(config)))
    return path


def presets(kind: str = "") -> list[str]:
    """Names of the presets of a kind, sorted."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def find_config(path: str, kind: str = "") -> Path:
    """A file, or the preset of that name: of the kind that is wanted, or any in configs/ by its path.

    Raises:
        ConfigError: neither; lists the presets of the kind.
    """
    for candidate in (Path(path), CONFIGS / kind / f"{path}.yaml", CONFIGS / path, CONFIGS / f"{path}.yaml"):
        if candidate.is_file():
            check_offered(candidate, CONFIGS)
            return candidate
    check_offered(Path(path), CONFIGS)
    known = presets(kind)
    elsewhere = [f"{KINDS[other][1]} {path}" for other in KINDS if other != kind and path in presets(other)]
    hint = f"; there is `{elsewhere[0]}`" if elsewhere else did_you_mean(Path(path).stem, known)
    raise ConfigError(f"{path}: no such config file{hint}; {kind or 'run'} presets: {', '.join(known)}")


def explain_errors(error: ValidationError, model: type[BaseModel] | None = None, raw: Any = None) -> str:
    """One line a fault: key, what is wrong, what was found; with `model` and the keys as given, what was meant."""
    return "\n".join(f"  {_fault(e, model, raw)}" for e in error.errors())


def _fault(found: Mapping[str, Any], model: type[BaseModel] | None, raw: Any) -> str:
    key = ".".join(map(str, found["loc"]))
    if from_afar.get():
        return "a key that no config has" if found["type"] == "extra_forbidden" else f"{key}: a value that does not fit"
    value = f"(found {found.get('input')!r:.80})"
    if found["type"] != "extra_forbidden":
        return f"{key}: {found['msg']} {value}".lstrip(": ")
    close = [] if model is None else meant(found["loc"], model, raw)
    if isinstance(inner := found.get("input"), Mapping) and close:  # `selekt.rho`: say the whole key
        close = [f"{name}.{word}" for name in close[:1] for word in inner] if len(inner) == 1 else close
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"{key}: there is no such key{hint} {value}"


def parse_pairs(items: Sequence[str] | None) -> dict[str, Any]:
    """["a.b=0.9"] to {"a.b": 0.9}; values are YAML.

    Raises:
        ConfigError: an item without `=`, without a key, or whose value is no YAML.
    """
    pairs: dict[str, Any] = {}
    for item in items or []:
        key, mark, value = item.partition("=")
        if not mark or not all(key.split(".")):
            raise ConfigError(f"--set {item}: expected KEY=VALUE, e.g. --set refine=crf")
        pairs[key] = read_yaml(value, f"--set {key}=…")
    return pairs


def unset_names(config: BaseModel) -> Iterator[tuple[str, str]]:
    """Environment variables that a config names and that are not set: the dotted key and the variable."""
    yield from _unset(config.model_dump(mode="json"), "")


def check_names(config: BaseModel) -> None:
    """Refuse a config that names an environment variable which is not set.

    Raises:
        ConfigError: names key and variable, and one that is set and looks like it.
    """
    for key, name in unset_names(config):
        close = close_to(name, os.environ, count=1)
        hint = f"; did you mean ${close[0]}?" if close else ""
        raise ConfigError(f"{key}: ${name} is not set{hint}; export {name}=… or give the key by --set {key}=…")


def _unset(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        names = (match.group(1) or match.group(2) for match in UNSET.finditer(value))
        yield from ((key, name) for name in names if name not in os.environ)
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from _unset(inner, f"{key}.{name}".lstrip("."))


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; numbers in it are places in a list.

    Raises:
        ConfigError: a part of the key lies below something that holds no keys.
    """
    *parents, last = key.split(".")
    place: Any = raw
    for depth, part in enumerate([*parents, last]):
        above = ".".join(parents[:depth])
        if isinstance(place, list) and part.isdigit() and int(part) < len(place):
            part = int(part)  # type: ignore[assignment]
        elif not isinstance(place, dict):
            held = f"a list of {len(place)}" if isinstance(place, list) else repr(place)[:60]
            raise ConfigError(f"--set {key}: {above} is {held}, which has no key {part!r}; set {above} itself")
        if depth == len(parents):
            place[part] = value
        else:
            if isinstance(place, dict) and place.get(part) is None:
                place[part] = {}
            place = place[part]
