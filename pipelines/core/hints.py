"""What a person may have meant by a key that no config has: the keys that there are, and those that look like it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from maskmill.data_contracts.words import close_to
from maskmill.pipelines.core.kinds import Kinds

DEPTH = 6  # configs are shallower; a model that holds itself ends here


def known_keys(model: type[BaseModel], raw: Any = None, above: str = "") -> Iterator[str]:
    """All keys of a config model, dotted, parents before what they hold. `raw` are the keys that were given: they say
    of which kind a source or an export is, and how many of a list there are.
    """
    for name in model.model_fields:
        key = f"{above}{name}"
        yield key
        for place, inner in _models(model, name, raw):
            if key.count(".") < DEPTH:
                yield from known_keys(inner, _at(_at(raw, name), place), f"{key}.{place}." if place else f"{key}.")


def meant(path: Sequence[int | str], model: type[BaseModel], raw: Any) -> list[str]:
    """Dotted keys that look like the unknown one at `path`: beside it, by its last word elsewhere, or as a whole."""
    known = list(known_keys(model, raw))
    parts = [str(part) for part in path]
    parent, word = ".".join(parts[:-1]), parts[-1]
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    close = [beside[name] for name in close_to(word, beside)]
    elsewhere = [key for key in known if key.rpartition(".")[2] == word]
    nearby = [*close, *elsewhere] if parent else [*elsewhere, *close]  # a bare word most often lacks its section
    return list(dict.fromkeys([*nearby, *close_to(".".join(parts), known)]))[:2]


def _models(model: type[BaseModel], name: str, raw: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Config models behind a field, each with its place in a list ("" where there is none)."""
    field, value = model.model_fields[name], _at(raw, name)
    marks = [*field.metadata, *_marks(field.annotation)]
    owners = (getattr(getattr(mark, "func", None), "__self__", None) for mark in marks)
    kinds = next((owner for owner in owners if isinstance(owner, Kinds)), None)
    items = list(enumerate(value)) if isinstance(value, Sequence) and not isinstance(value, str) else [("", value)]
    for place, item in items:
        found = _of_kind(kinds, item) if kinds else _first_model(field.annotation)
        if found is not None:
            yield str(place), found


def _of_kind(kinds: "Kinds[Any]", raw: Any) -> type[BaseModel] | None:
    name = str(_at(raw, kinds.tag) or kinds.default)
    return kinds.load(name) if name in set(kinds) else None


def _at(raw: Any, place: str) -> Any:
    if not place:
        return raw
    if isinstance(raw, Mapping):
        return raw.get(place)
    return raw[int(place)] if isinstance(raw, Sequence) and place.isdigit() else None


def _marks(annotation: Any) -> Iterator[Any]:
    """What `Annotated` says anywhere inside an annotation."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from arguments[1:]
    for part in arguments:
        yield from _marks(part)


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _first_model(part)) is not None), None)
