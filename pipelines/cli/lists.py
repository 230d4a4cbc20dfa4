"""`maskmill list …`: what there is by name."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import CONFIGS, KINDS, presets


class What(StrEnum):
    """What can be listed."""

    PRESETS = "presets"
    TRAINERS = "trainers"
    LABELERS = "labelers"
    SOURCES = "sources"
    EXPORTS = "exports"
    SCORES = "scores"


def list_names(
    what: Annotated[What, typer.Argument(help="presets, trainers, labelers, sources, exports or scores")],
    as_json: JsonOption = False,
) -> None:
    """List what there is: presets with the command that takes them, and what a config may name."""
    rows = found(what)
    table = Table("name", "what it is")
    for name, words in rows.items():
        table.add_row(name, words)
    say(table)
    result(rows)


def found(what: What) -> dict[str, str]:
    """Names and a line about each."""
    if what is What.PRESETS:
        return {name: words for kind in KINDS for name, words in _presets(kind)}
    return {name: _first_line(module) for name, module in sorted(_table(what).items())}


def _presets(kind: str) -> list[tuple[str, str]]:
    return [(f"{kind}/{name}".lstrip("/"), f"{KINDS[kind][1]}: {_comment(kind, name)}") for name in presets(kind)]


def _comment(kind: str, name: str) -> str:
    first = (CONFIGS / kind / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").rstrip(":") if first.startswith("#") else ""


def _table(what: What) -> dict[str, str]:
    """Name to the module that holds it."""
    if what is What.TRAINERS:
        from maskmill.trainers.registry import TRAINERS

        return TRAINERS
    if what is What.LABELERS:
        from maskmill.labelers.registry import LABELERS

        return LABELERS
    if what is What.SCORES:
        from maskmill.curation.registry import SCORERS

        return SCORERS
    from maskmill.pipelines.export import EXPORTERS
    from maskmill.pipelines.ingest import SOURCES

    kinds = SOURCES if what is What.SOURCES else EXPORTERS
    return {name: kinds.module_of(name) for name in kinds}


def _first_line(module: str) -> str:
    """The first sentence of a module's docstring, read without importing it."""
    import ast
    import importlib.util

    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    with open(spec.origin, encoding="utf-8") as file:
        words = " ".join((ast.get_docstring(ast.parse(file.read())) or "").split("\n\n")[0].split())
    return words.split(". ")[0].rstrip(".")
