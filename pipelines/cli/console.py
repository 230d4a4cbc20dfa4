"""What all commands share: errors as words."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from maskmill.pipelines.core.settings import explain_errors


@contextmanager
def readable_errors(console: Console) -> Iterator[None]:
    """Errors that a user can mend are printed without a traceback, and end with exit status 2."""
    try:
        yield
    except ValidationError as error:
        _stop(console, f"these settings cannot be used:\n{explain_errors(error)}", error)
    except (ValueError, OSError, KeyError) as error:
        _stop(console, str(error.args[0] if isinstance(error, KeyError) and error.args else error), error)


def _stop(console: Console, message: str, cause: Exception) -> None:
    console.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2) from cause
