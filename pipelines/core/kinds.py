"""Families of config models told apart by one key: a table of names, each model imported only when it is asked for."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from maskmill.data_contracts.words import did_you_mean

Model = TypeVar("Model", bound=BaseModel)


class Kinds(Generic[Model]):
    """`table` maps each name to "module:Class"; `tag` is the key that names it in a config, e.g. `kind: coco`.

    As a pydantic field: `Annotated[SerializeAsAny[Base], BeforeValidator(KINDS.validate)]`. With `default`, a config
    without the tag is of that kind.
    """

    def __init__(self, what: str, tag: str, table: Mapping[str, str], default: str | None = None) -> None:
        self.what = what
        self.tag = tag
        self.default = default
        self._table = dict(table)

    def add(self, name: str, place: str) -> None:
        """One more kind in this process: its name, and "module:Class"."""
        self._table[name] = place

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def module_of(self, name: str) -> str:
        """The module that holds a kind."""
        return self._table[name].partition(":")[0]

    def load(self, name: str) -> type[Model]:
        """The model of a kind.

        Raises:
            ValueError: no such kind; lists them.
        """
        if name not in self._table:
            hint = did_you_mean(name, self._table)
            raise ValueError(f"{self.tag}: {name!r} is no {self.what}{hint}; there is: {', '.join(self._table)}")
        module, _, cls = self._table[name].partition(":")
        return cast(type[Model], getattr(importlib.import_module(module), cls))

    def validate(self, value: Any) -> Any:
        """A mapping as the model that its tag names, a name as that model with its defaults; anything else as it is.

        Raises:
            ValueError: no tag and no default, or an unknown kind. pydantic.ValidationError: options that do not fit.
        """
        if isinstance(value, str):
            value = {self.tag: value}
        if not isinstance(value, Mapping):
            return value
        name = value.get(self.tag, self.default)
        if name is None:
            raise ValueError(f"expected the key `{self.tag}`, one of: {', '.join(self._table)}")
        return self.load(str(name)).model_validate(value)
