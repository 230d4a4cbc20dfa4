"""A function and its last results."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """`function` with its last `size` results kept. It pickles without them, so that a data process can be given it."""

    def __init__(self, function: Callable[..., T], size: int) -> None:
        self._function, self._size = function, size
        self._kept = functools.lru_cache(maxsize=size)(function)

    def __call__(self, *args: Hashable) -> T:
        return self._kept(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, (self._function, self._size)
