"""The command group: a command's module is imported when the command is called, so that `--help` is there at once."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from maskmill.pipelines.cli.console import readable_errors, spoken_log, voice
from maskmill.pipelines.cli.interrupt import stoppable


@dataclass(frozen=True)
class Lazy:
    """A command: "module:name" of its function (or Typer app), its line in the list, and its heading there."""

    place: str
    line: str
    panel: str


class ReadableGroup(TyperGroup):
    """Errors become words, and Ctrl-C ends in two seconds."""

    def invoke(self, ctx: Any) -> Any:
        with readable_errors(), stoppable(), spoken_log():
            return super().invoke(ctx)


class LazyGroup(ReadableGroup):
    """Shows commands by their lines; imports the one that is called."""

    table: Mapping[str, Lazy] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: _stand_in(name, row) for name, row in self.table.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, found, rest = super().resolve_command(ctx, args)
        return name, load(str(name), self.table[str(name)]) if found else None, rest


def _stand_in(name: str, row: Lazy) -> TyperCommand:
    return TyperCommand(name, help=row.line, short_help=row.line, rich_help_panel=row.panel)


def hear(name: str) -> Callable[[bool], bool]:
    """What an option of that name does when it is given: it speaks for the whole call."""

    def heard(value: bool) -> bool:
        setattr(voice, name, getattr(voice, name) or value)
        return value

    return heard


def load(name: str, row: Lazy) -> Any:
    """The real command, with `-q` and `-v` among its options."""
    module, _, attribute = row.place.partition(":")
    target = getattr(importlib.import_module(module), attribute)
    app = target if isinstance(target, typer.Typer) else _app_of(name, target)
    command = typer.main.get_command(app)
    command.name = name
    _add_voice(command)
    return command


def _app_of(name: str, function: Any) -> typer.Typer:
    app = typer.Typer(rich_markup_mode="rich", add_completion=False)
    app.command(name)(function)
    return app


def _add_voice(command: Any) -> None:
    """Give a command (and the commands below it) the options that all have."""
    for below in getattr(command, "commands", {}).values():
        _add_voice(below)
    if not hasattr(command, "commands"):
        taken = {name for param in command.params for name in param.opts}
        command.params += [option for option in _voice_options() if not taken & set(option.opts)]


def _voice_options() -> list[Any]:
    """`--quiet` and `--verbose` as the command line's library makes them of a function."""
    app = typer.Typer(add_completion=False)
    app.command()(_voices)
    return [param for param in typer.main.get_command(app).params if param.name in ("quiet", "verbose")]


def _voices(
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="errors and warnings only", callback=hear("quiet"), expose_value=False),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="say more", callback=hear("verbose"), expose_value=False)
    ] = False,
) -> None: ...
