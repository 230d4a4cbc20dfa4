"""What all commands share: where words go, errors as words, and what a process ends with.

Results and progress go to stdout, errors and alarms to stderr. With `--json` stdout holds one JSON object and nothing
else; what is said on the way goes to stderr.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment


class PlainConsole(Console):
    """A console on which words from data (file names, captions) cannot move the cursor or rename the window."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        from maskmill.data_contracts.words import visible  # brings the contracts along: not for `--help`

        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


out = PlainConsole(highlight=False, soft_wrap=True)
err = PlainConsole(stderr=True, highlight=False, soft_wrap=True)


class Voice:
    """How much is said in this call of the command: set by `-q`, `-v` and `--json`, anew in each call."""

    quiet = False
    verbose = False
    as_json = False


voice = Voice()


def reset() -> None:
    """Speak as usual again."""
    voice.quiet = voice.verbose = voice.as_json = False


def say(*words: Any) -> None:
    """Something that a person wants to read; nothing with `-q`, and on stderr with `--json`."""
    if not voice.quiet:
        (err if voice.as_json else out).print(*words)


def warn(message: str) -> None:
    """Something that a person must read: on stderr, whatever was asked for."""
    err.print(f"[bold yellow]warning:[/] {escape(message)}")


class Spoken(logging.Handler):
    """What the stages log: warnings on stderr, the rest where other words go."""

    def emit(self, record: logging.LogRecord) -> None:
        from maskmill.data_contracts.secrets import redact

        words = redact(record.getMessage())
        if record.levelno >= logging.WARNING:
            warn(words)
        else:
            say(escape(words))


@contextmanager
def spoken_log() -> Iterator[None]:
    """While a command runs, maskmill's log is said aloud, once: not again by handlers that libraries put above it."""
    logger, handler = logging.getLogger("maskmill"), Spoken()
    level, above = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = above


def result(data: Any) -> None:
    """The command's result for programs: one JSON object on stdout, with `--json` only."""
    if voice.as_json:
        sys.stdout.write(json.dumps(data, indent=2, default=str, allow_nan=False) + "\n")


@contextmanager
def readable_errors(console: Console | None = None) -> Iterator[None]:
    """Errors become one message on stderr and an exit status; a traceback is shown with `-v` only."""
    try:
        yield
    except (typer.Exit, typer.Abort, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        if hasattr(error, "exit_code"):  # wrong options and the like, which the command line's library words itself
            raise
        from maskmill.pipelines.cli.faults import words_for

        message, status = words_for(error)
        _stop(message, status, error)


def _stop(message: str, status: int, cause: Exception) -> None:
    from maskmill.data_contracts.secrets import redact

    message = redact(message)
    if voice.verbose:
        err.print(escape(redact("".join(traceback.format_exception(cause)))))
    if voice.as_json:
        sys.stdout.write(json.dumps({"error": message, "exit": int(status)}) + "\n")
    err.print(f"[bold red]error:[/] {escape(message)}")
    raise typer.Exit(status) from cause
