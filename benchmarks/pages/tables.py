"""One config model as a table: key, type, default and presets, what it is."""

import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Link = Callable[[type[BaseModel]], str | None]  # the link to the table of a model, where there is one
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}
PLAIN = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    type(None): "null",
    typing.Any: "any value",
}


def table(model: type[BaseModel], link: Link, base: type[BaseModel] | None = None) -> str:
    """The table of a model's keys, in their order; with `base`, of those that it does not have as they are there."""
    names = own_keys(model, base)
    rows = [f"| {' | '.join(_row(model, name, link))} |" for name in names]
    return "\n".join(["| key | value | default | what it is |", "|---|---|---|---|", *rows]) if rows else ""


def own_keys(model: type[BaseModel], base: type[BaseModel] | None) -> list[str]:
    """Keys of a model that `base` lacks, or has with another type, default or description."""
    fields, inherited = model.model_fields, {} if base is None else base.model_fields
    return [name for name, field in fields.items() if _facts(field) != _facts(inherited.get(name))]


def _facts(field: FieldInfo | None) -> tuple[str, ...]:
    if field is None:
        return ()
    return str(field.annotation), repr(field.default), repr(field.metadata), str(field.description)


def _row(model: type[BaseModel], name: str, link: Link) -> tuple[str, str, str, str]:
    field = model.model_fields[name]
    values = kind(field.annotation, link, bounds(field.metadata))
    return f"`{name}`", values, _defaults(model, name), _cell(field.description or "")


def bounds(metadata: list[Any]) -> str:
    """`≥ 0, < 1`: what the constraints of a field leave."""
    found = [f"{sign} {getattr(item, key)}" for item in metadata for key, sign in BOUNDS.items() if hasattr(item, key)]
    return ", ".join(found)


def kind(annotation: Any, link: Link, limits: str = "") -> str:
    """A type in words: `number ≥ 0 or null`, "`a`, `b`", "list of whole numbers"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return kind(arguments[0], link, limits or bounds(list(arguments[1:])))
    if origin in (Union, types.UnionType):
        parts = [kind(part, link, limits) for part in sorted(arguments, key=lambda part: part is type(None))]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return ", ".join(f"`{shown(value)}`" for value in arguments)
    if origin in (tuple, list):
        return _items(arguments, link, limits)
    if origin in (dict, Mapping):
        return f"mapping: {kind(arguments[0], link)} → {kind(arguments[1], link)}"
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        target = link(annotation)
        return f"[options]({target})" if target else "options"
    word = PLAIN.get(annotation, str(getattr(annotation, "__name__", annotation)))
    return f"{word} {limits}".strip() if annotation in (int, float) else word


def _items(arguments: tuple[Any, ...], link: Link, limits: str) -> str:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"list: {kind(arguments[0], link, limits)}"
    if len(arguments) == 1:
        return f"list: {kind(arguments[0], link, limits)}"
    words = {kind(argument, link, limits) for argument in arguments}
    return f"{len(arguments)} × {words.pop()}" if len(words) == 1 else f"{len(arguments)} values"


def _defaults(model: type[BaseModel], name: str) -> str:
    """The value where nothing is given, then those of the other presets where they differ."""
    field = model.model_fields[name]
    presets = dict(getattr(model, "presets", {}))
    chosen = model.model_fields["preset"].default if presets and "preset" in model.model_fields else None
    value = presets.get(chosen, {}).get(name, field.get_default(call_default_factory=True))
    first = "required" if field.is_required() and name not in presets.get(chosen, {}) else f"`{shown(value)}`"
    others = [f"{preset}: `{shown(other)}`" for preset, other in _others(presets, chosen, name, field, value)]
    return "<br>".join([first, *others])


def _others(
    presets: Mapping[str, Mapping[str, Any]], chosen: Any, name: str, field: FieldInfo, value: Any
) -> Iterator[tuple[str, Any]]:
    for preset, values in presets.items():
        other = values.get(name, field.get_default(call_default_factory=True))
        if preset != chosen and name != "preset" and shown(other) != shown(value):
            yield preset, other


def shown(value: Any) -> str:
    """A value as YAML on one line; of a nested config what it sets."""
    if isinstance(value, BaseModel):
        plain = type(value).model_validate({key: item for key, item in value if key in ("kind", "preset")})
        told = {key for key, item in value if item != getattr(plain, key) or (key == "preset" and item != "starter")}
        value = {key: item for key, item in value if key in told}
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(key)}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return '""' if value == "" else str(value)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
