"""Weights in single files: numbers and nothing else, whatever the file would like to do."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from maskmill.data_contracts import raise_transient
from maskmill.vision.model_folders import UnsafeModelError

if TYPE_CHECKING:
    from torch import Tensor

FIX = "save the weights as .safetensors, from a program that you trust"


def read_safetensors(path: str) -> "dict[str, Tensor]":
    """Tensors by name of a safetensors file.

    Raises:
        ValueError: no such file, or none of that kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not os.path.isfile(path):
        raise ValueError(f"weights {path!r}: expected auto, random, hub or a safetensors file, found no such file")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise_transient(error)
        raise ValueError(f"weights {path!r}: expected a safetensors file, found {error}; {FIX}") from error


@contextmanager
def no_code(path: str) -> Iterator[None]:
    """Around a library that reads weights with `weights_only`: what it refuses, in words.

    Raises:
        UnsafeModelError: a pickle with more than numbers. ValueError: no weights at all.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        found = "a pickle with objects in it, which can run code"
        raise UnsafeModelError(f"weights {path!r}: expected tensors alone, found {found}; {FIX}") from error
    except (EOFError, RuntimeError) as error:
        raise ValueError(f"weights {path!r}: expected tensors, found {str(error)[:200]}; {FIX}") from error
