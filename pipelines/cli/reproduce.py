"""`maskmill reproduce`: a published table, from data and weights to figures beside the published ones."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.core.settings import ConfigError, load_settings, parse_pairs
from maskmill.pipelines.run.reproduce import Recipe, load_recipe, markdown, recipe_names, reproduce


def reproduce_table(
    name: Annotated[str | None, typer.Argument(help="a recipe (--list), or a YAML file")] = None,
    out: Annotated[str | None, typer.Option(help="where all of it goes; default: reproduced/NAME")] = None,
    overrides: SetOption = None,
    list_all: Annotated[bool, typer.Option("--list", help="say which recipes there are, and what each needs")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train and test as a paper did and print its table: data=DIR, weights=FILE and any other key by --set.

    Every step that is done is skipped when the same command comes again. What is not as in the release stands below
    the table and in the recipe's file.
    """
    if list_all:
        _list()
        return
    if name is None:
        raise ConfigError(f"reproduce: name a recipe: {', '.join(recipe_names())}; --list says what each needs")
    recipe = load_recipe(name, parse_pairs(overrides), out or f"reproduced/{name}")
    found = reproduce(recipe, lambda words: say(escape(words)))
    say(escape(markdown(recipe, found)))
    result({"name": recipe.name, "out": recipe.parameters["out"], "found": found})


def _list() -> None:
    table = Table("name", "table", "data", "weights", "GPU", "hours")
    rows = {name: load_settings(name, Recipe) for name in recipe_names()}
    for name, recipe in rows.items():
        needs = recipe.needs
        words = (recipe.table, needs.data, needs.weights, f"{needs.gpu_gb:g} GB", f"{needs.hours:g}")
        table.add_row(name, *map(escape, words))
    say(table)
    result({name: recipe.needs.model_dump() for name, recipe in rows.items()})
