"""What a config takes from the environment is used, never published: outputs hold the reference, errors a redaction.

A config may say `root: $DATA/photos`. Whoever opens it needs the value; config.json, manifest, report, cards and shards
get `$DATA/photos` back. Words that are only ever published (names, licences, titles) are never expanded at all.
"""

import logging
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from maskmill.data_contracts.texts import parse_yaml

PUBLISHED = frozenset({"name", "licence", "title", "description", "synonyms", "prompt"})  # keys of words for people
NAME = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
USER = re.compile(r"(\w://)[^/\s@]+@")
TOKEN = re.compile(
    r"([?&](?:[\w-]*(?:token|signature|secret|password|credential|key)[\w-]*|sig|pwd)=)[^&\s'\"]+", re.IGNORECASE
)
ABSOLUTE = re.compile(
    r"(?:file:/*)?(?:[/~]|[A-Za-z]:[\\/]|\\\\)[^()\[\]*?|<>\n]*[^()\[\]*?|<>\n\\/][\\/]?"
)  # no pattern
SEPARATORS = "/\\"
PARTS = re.compile(r"[\\/]")
SHORTEST = 4  # characters of a value that is worth hiding; shorter ones would blot out half a text
PLAIN = 8  # letters from which on a word is hidden wherever it occurs

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
    return parse_yaml(used) if NAME.fullmatch(value) and used.startswith(("[", "{")) else used


def published(config: BaseModel, **dump: Any) -> dict[str, Any]:
    """A config as JSON values that anybody may read: references instead of values. `dump` as for `model_dump`."""
    found: dict[str, Any] = _each(config.model_dump(mode="json", **dump), public)
    return found


def public(text: str) -> str:
    """A string of a config as anybody may read it."""
    return _references.get(text) or _without_credentials(text)


def portable(value: Any) -> Any:
    """JSON values for cards and manifests, which travel: of an absolute path of this machine only its last part stays
    (`…/photos`). URLs, relative paths and patterns are left as they are.
    """
    return _each(value, portable_path)


def portable_path(text: str) -> str:
    """A string, or what stays of it where it is an absolute path of this machine."""
    if not ABSOLUTE.fullmatch(text):
        return text
    return f"…/{PARTS.split(text.rstrip(SEPARATORS))[-1]}"


def redact(text: str) -> str:
    """A message without the values of variables that configs named, and without credentials in URLs. Values that are
    paths of this machine are no secrets, and a person needs them.
    """
    for value in sorted(_values, key=len, reverse=True):
        if value in text and not (value.startswith(("/", ".")) and os.path.exists(value)):
            text = _hidden(text, value)
    return _without_credentials(text)


def _hidden(text: str, value: str) -> str:
    """A text without a value. A short plain word is hidden where it stands alone: as a part of other words it tells
    nothing, and hiding it there would spoil them.
    """
    if len(value) < PLAIN and value.isalpha():
        return re.sub(rf"(?<!\w){value}(?!\w)", lambda _: _values[value], text)
    return text.replace(value, _values[value])


class Discreet(logging.Filter):
    """Redacts what a handler is given: message, arguments and traceback of every record. For handlers whose lines go to
    a server or a file.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


@contextmanager
def redacted_errors() -> Iterator[None]:
    """Errors that leave the block hold no secrets, neither in their words nor in those of the errors behind them.

    Raises:
        RuntimeError: in the place of an error that did.
    """
    try:
        yield
    except Exception as error:
        words = "".join(traceback.format_exception(error))
        if redact(words) == words:
            raise
        shown = f"{type(error).__name__}: {redact(str(error))}"
    else:
        return
    raise RuntimeError(shown)


def reference(text: str) -> str:
    """A string that other processes need, values in it as the $NAMES that they came from: `os.path.expandvars` gives it
    back.
    """
    for value in sorted(_values, key=len, reverse=True):
        text = text.replace(value, f"${{{_values[value][1:]}}}")
    return text


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
