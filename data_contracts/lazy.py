"""Packages that import nothing before it is used: a config is read in a moment, engines load when they run."""

import importlib
from collections.abc import Callable
from typing import Any


def lazily(package: str, *modules: str) -> Callable[[str], Any]:
    """A package's `__getattr__`: a public name is taken from the first of `modules` that has it.

    Order matters twice: light modules first, and the module that defines a name before those that import it.
    """

    def find(name: str) -> Any:
        if not name.startswith("__") and name in importlib.import_module(package).__all__:
            for module in modules:
                found = importlib.import_module(f"{package}.{module}")
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
