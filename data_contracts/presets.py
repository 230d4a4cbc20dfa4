"""Options that come from a named preset."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, model_validator


class WithPresets(BaseModel):
    """A config whose field `preset` names values for all that is not given.

    `presets` holds them by name; a config without that field has none. `starter` is the preset of configs that name
    none, and an unknown name is left to the field's own check.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name = given.get("preset", "starter")
        return {**(cls.presets.get(name, {}) if isinstance(name, str) else {}), **given}
