"""What a config takes from the environment is used, never published: outputs hold the reference, errors a redaction.

A config may say `root: $DATA/photos`. Whoever opens it needs the value; config.json, manifest, report, cards and shards
get `$DATA/photos` back. Words that are only ever published (names, licences, titles) are never expanded at all.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

PUBLISHED = frozenset({"name", "licence", "title", "description", "synonyms", "prompt"})  # keys of words for people
NAME = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
USER = re.compile(r"(\w://)[^/\s@]+@")
TOKEN = re.compile(
    r"([?&](?:[\w-]*(?:token|signature|secret|password|credential|key)[\w-]*|sig|pwd)=)[^&\s'\"]+", re.IGNORECASE
)
SHORTEST = 4  # characters of a value that is worth hiding; shorter ones would blot out half a text

_references: dict[str, str] = {}  # a string as it was used -> as the config has it
_values: dict[str, str] = {}  # value of a variable -> $NAME


def expand(value: Any, key: str = "") -> Any:
    """A config's values with $NAMES replaced by environment variables, except under keys of `PUBLISHED`. Names that are
    not set stay.
    """
    if isinstance(value, Mapping):
        return {name: expand(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [expand(inner, key) for inner in value]
    if not isinstance(value, str) or key in PUBLISHED or (used := os.path.expandvars(value)) == value:
        return value
    _references[used] = value
    for match in NAME.finditer(value):
        name = match.group(1) or match.group(2)
        if len(secret := os.environ.get(name, "")) >= SHORTEST:
            _values[secret] = f"${name}"
    return yaml.safe_load(used) if NAME.fullmatch(value) and used.startswith(("[", "{")) else used


def published(config: BaseModel, **dump: Any) -> dict[str, Any]:
    """A config as JSON values that anybody may read: references instead of values. `dump` as for `model_dump`."""
    found: dict[str, Any] = _each(config.model_dump(mode="json", **dump), public)
    return found


def public(text: str) -> str:
    """A string of a config as anybody may read it."""
    return _references.get(text) or _without_credentials(text)


def redact(text: str) -> str:
    """A message without the values of variables that configs named, and without credentials in URLs. Values that are
    paths of this machine are no secrets, and a person needs them.
    """
    for value in sorted(_values, key=len, reverse=True):
        if value in text and not (value.startswith(("/", ".")) and os.path.exists(value)):
            text = text.replace(value, _values[value])
    return _without_credentials(text)


def credentials_at(value: Any, key: str = "") -> str | None:
    """The dotted key of a string that spells out a URL's user, password or token; None where there is none."""
    if isinstance(value, str):
        return key if value not in _references and _without_credentials(value) != value else None
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return next((found for name, inner in items if (found := credentials_at(inner, f"{key}.{name}".lstrip(".")))), None)


def _without_credentials(text: str) -> str:
    return TOKEN.sub(r"\1***", USER.sub(r"\1***@", text))


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _each(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [_each(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value
