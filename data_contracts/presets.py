"""Options that come from a named preset."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, SerializationInfo, SerializerFunctionWrapHandler, model_serializer, model_validator


class WithPresets(BaseModel):
    """A config whose field `preset` names values for all that is not given.

    `presets` holds them by name; a config without that field has none. `starter` is the preset of configs that name
    none, and an unknown name is left to the field's own check. What is given is laid over the preset at every depth:
    {preset: faithful, segmenter: {weights: F}} keeps the preset's decoder. A nested config that is given as an object
    is whole already, and replaces.

    `later` holds options that came after results had been hashed, each by the value (as JSON holds it) that says what
    was done before there were any; a class's own are added to those that it inherits. In a dump for a hash (context
    `FOR_HASH`) an option of that value is left out, so that what was finished before stays valid.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    later: ClassVar[Mapping[str, Any]] = {}

    @model_serializer(mode="wrap")
    def _without_later(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        if not (info.context or {}).get("for_hash"):
            return dumped
        later = {key: value for kind in type(self).__mro__[::-1] for key, value in vars(kind).get("later", {}).items()}
        return {key: value for key, value in dumped.items() if key not in later or value != later[key]}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name = given.get("preset", "starter")
        return merge(cls.presets.get(name, {}) if isinstance(name, str) else {}, given)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` laid over `base` key by key, at every depth; configs in `base` that are objects already count as mappings.

    A source, exporter or space of another `kind`, or a config of another `preset`, replaces.
    """
    merged = dict(base)
    for key, value in top.items():
        old: Any = merged.get(key)
        if isinstance(old, BaseModel) and isinstance(value, Mapping):
            old = old.model_dump(exclude_unset=True)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both and _same_family(old, value) else value
    return merged


def _same_family(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(old.get(tag) == new.get(tag, old.get(tag)) for tag in ("kind", "preset"))
