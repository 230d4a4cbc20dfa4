"""A YAML file or preset as any config model, with overrides."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from maskmill.data_contracts import merge, read_bytes, write_if_changed
from maskmill.data_contracts.secrets import credentials_at, expand, published
from maskmill.data_contracts.sums import CHECK, checked_json
from maskmill.data_contracts.texts import TextError, parse_yaml
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
    "reproduce": (("paper",), "maskmill reproduce"),
}
PLAIN = {  # a library's words for what a YAML file holds
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list, e.g. [a, b]"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "expected keys with values"),
    "missing": "must be given",
    "string_type": "expected a word",
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
        put(raw, key, _expanded(key, value))
    return check_settings(raw, model, path)


def _expanded(key: str, value: Any) -> Any:
    """A value that was given beside a config, with $NAMES expanded: at home. Whoever starts a deployed flow would have
    the worker read its environment to them.

    Raises:
        ConfigError: names in a value from afar.
    """
    expanded = expand(value, key.rpartition(".")[2])
    if from_afar.get() and expanded != value:
        raise ConfigError(
            f"{key}: expected a value, found the name of an environment variable; "
            "such names are read in the config file alone: write it there"
        )
    return expanded


def kind_of(model: type[BaseModel]) -> str:
    """The folder in configs/ with presets of this kind of config; "" for runs."""
    return str(getattr(model, "PRESETS", ""))


def read_settings(config: str | Mapping[str, Any], kind: str = "", above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys of a YAML file, of a preset, or of a mapping that has been read already, laid over what it extends.
    `above` are the files that extend it.

    Raises:
        ConfigError: no such file or preset, no YAML, no mapping of keys in it, or files that extend one another.
    """
    if isinstance(config, Mapping):
        raw = dict(config)
        parent = raw.pop("extends", None)
        return raw if parent is None else merge(read_settings(str(parent), kind, above), raw)
    if "://" in config:
        return _from_store(config)
    found = find_config(config, kind)
    if str(found.resolve()) in above:
        names = " → ".join(Path(path).name for path in (*above, str(found)))
        raise ConfigError(f"{found}: extends itself: {names}; remove one `extends`")
    raw = expand(read_yaml(_text_of(found), str(found)))
    if not isinstance(raw, dict):
        raise ConfigError(f"{found}: expected a mapping of config keys, found {type(raw).__name__}")
    raw.pop(CHECK, None)  # a config.json that a run wrote
    if "extends" in raw and (beside := found.parent / str(raw["extends"])).is_file():
        raw["extends"] = str(beside)
    return read_settings(raw, kind, (*above, str(found.resolve())))


def _from_store(url: str) -> dict[str, Any]:
    """The keys of a config that a run left in an object store.

    Raises:
        ConfigError: no such object, or no mapping of keys in it.
    """
    check_offered(Path(url), CONFIGS)
    try:
        raw = expand(read_yaml(read_bytes(url).decode(), url))
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError(f"{url}: expected the config of a run; {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{url}: expected a mapping of config keys, found {type(raw).__name__}")
    return {key: value for key, value in raw.items() if key != CHECK}


def _text_of(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: bytes that are no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected text in UTF-8, found bytes that are none at {error.start}") from error


def read_yaml(text: str, where: str) -> Any:
    """The value that a YAML text holds; `where` is what an error calls it.

    Raises:
        ConfigError: no YAML (says line and column), nested too deeply, or a number that is too long.
    """
    try:
        return parse_yaml(text)
    except TextError as error:
        raise ConfigError(f"{where}: {error}. Fix: mend the text there") from error


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


def check_inner(raw: Mapping[str, Any], model: type[Model], key: str, owner: str) -> Model:
    """What a config holds below `key` as the model of whoever it is for (`owner`, e.g. "trainer weclip").

    Raises:
        ConfigError: an unknown key or a wrong value; lists each by its whole key, and what was meant.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        words = "\n".join(f"  {key}.{_fault(e, model, raw, f'{key}.')}" for e in error.errors())
        raise ConfigError(f"{owner} cannot use these settings:\n{words}") from error
    except (OverflowError, RecursionError) as error:
        raise ConfigError(f"{owner} cannot use these settings: {error}") from error


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
    """A file, or the preset of that name: of the kind that is wanted, or any in configs/ by its path; or the config
    that a run left in its folder.

    Raises:
        ConfigError: neither; lists the presets of the kind.
    """
    presets_so_called = (CONFIGS / kind / f"{path}.yaml", CONFIGS / path, CONFIGS / f"{path}.yaml")
    for candidate in (Path(path), *presets_so_called, Path(path) / "config.json"):
        if candidate.is_file():
            check_offered(candidate, CONFIGS)
            return candidate
    check_offered(Path(path), CONFIGS)
    known = presets(kind)
    elsewhere = [f"{KINDS[other][1]} {path}" for other in KINDS if other != kind and path in presets(other)]
    hint = f"; there is `{elsewhere[0]}`" if elsewhere else did_you_mean(Path(path).stem, known)
    if Path(path).is_dir() and not kind:
        hint = f"; a folder of pairs is given as `folder --set source.root={path}`"
    raise ConfigError(f"{path}: no such config file{hint}; {kind or 'run'} presets: {', '.join(known)}")


def explain_errors(error: ValidationError, model: type[BaseModel] | None = None, raw: Any = None) -> str:
    """One line a fault: key, what is wrong, what was found; with `model` and the keys as given, what was meant."""
    return "\n".join(f"  {_fault(e, model, raw)}" for e in error.errors())


def _fault(found: Mapping[str, Any], model: type[BaseModel] | None, raw: Any, above: str = "") -> str:
    key = ".".join(map(str, found["loc"]))
    if from_afar.get():
        return "a key that no config has" if found["type"] == "extra_forbidden" else f"{key}: a value that does not fit"
    value = f"(found {found.get('input')!r:.80})"
    if found["type"] != "extra_forbidden":
        said = PLAIN.get(found["type"], str(found["msg"]).removeprefix("Value error, "))
        if found["type"] == "literal_error":
            said += did_you_mean(str(found.get("input")), re.findall(r"'([^']*)'", str(found["ctx"]["expected"])))
        whole = found["type"] == "value_error" and isinstance(found.get("input"), Mapping)  # the message says what
        return f"{key}: {said}{'' if whole else f' {value}'}".lstrip(": ")
    close = [] if model is None else meant(found["loc"], model, raw)
    if isinstance(inner := found.get("input"), Mapping) and close:  # `selekt.rho`: say the whole key
        close = [f"{name}.{word}" for name in close[:1] for word in inner] if len(inner) == 1 else close
    hint = f"; did you mean {' or '.join(above + name for name in close)}?" if close else ""
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


def parse_nested(items: Sequence[str] | None) -> dict[str, Any]:
    """["a.b=0.9", "a.c=1"] to {"a": {"b": 0.9, "c": 1}}: settings of a trainer or labeler.

    Raises:
        ConfigError: as `parse_pairs`; a key below one that holds no keys.
    """
    nested: dict[str, Any] = {}
    for key, value in parse_pairs(items).items():
        put(nested, key, value)
    return nested


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


def put(raw: dict[str, Any], key: str, value: Any) -> None:
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
