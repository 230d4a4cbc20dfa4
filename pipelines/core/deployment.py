"""Configs that are named from afar, as a parameter of a deployment: which files may be read, and what is said of them.

Whoever may start a flow is not, for that, somebody who may read the worker's files. The deployment names a folder in
MASKMILL_CONFIGS; only configs and label spaces in there, and presets, are read. Errors hold no values of any file.
"""

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar

from maskmill.data_contracts.secrets import Discreet, redacted_errors
from maskmill.data_contracts.secrets import redact as redact  # for flows, which know pipelines alone
from maskmill.data_contracts.secrets import reference as reference

FOLDER = "MASKMILL_CONFIGS"
LOGGERS = ("", "prefect", "prefect.flow_runs", "prefect.task_runs", "maskmill")  # those that have handlers
Given = ParamSpec("Given")
Result = TypeVar("Result")
from_afar: ContextVar[bool] = ContextVar("from_afar", default=False)


class NotAllowedError(ValueError):
    """A file that a parameter names and that the deployment does not offer."""


def discreet(body: Callable[Given, Result]) -> Callable[Given, Result]:
    """The body of a flow or task whose log lines and errors hold no secrets: Prefect sends them to its server."""

    @functools.wraps(body)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        for name in LOGGERS:
            for handler in logging.getLogger(name).handlers:
                if not any(isinstance(one, Discreet) for one in handler.filters):
                    handler.addFilter(Discreet())
        with redacted_errors():
            return body(*args, **kwargs)

    return wrapped


def slug(*words: str) -> str:
    """Words as the key of an artifact: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


@contextmanager
def deployed() -> Iterator[None]:
    """Inside, configs are read for somebody else."""
    token = from_afar.set(True)
    try:
        yield
    finally:
        from_afar.reset(token)


def check_offered(path: Path, presets: Path) -> None:
    """Refuse a file that the deployment does not offer, whether it is there or not.

    Raises:
        NotAllowedError: says where configs may lie, and nothing of the file.
    """
    if not from_afar.get() or not (folder := os.environ.get(FOLDER)):
        return
    found = path.resolve()
    if not any(found.is_relative_to(place.resolve()) for place in (Path(folder), presets)):
        raise NotAllowedError(
            f"expected the name of a preset, or a YAML file below the folder that the deployment sets in {FOLDER}, "
            f"found {str(path)!r}; put the config there, or ask whoever runs the worker"
        )
