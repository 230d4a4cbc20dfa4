"""The command line: arguments in, words out. `app` is the whole of it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskmill.pipelines.cli.main import app

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    from maskmill.pipelines.cli.main import app

    return app
