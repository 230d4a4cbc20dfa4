"""HTML pages from templates, with everything that comes from data escaped."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


def page_template(
    name: str, filters: Mapping[str, Callable[..., Any]] | None = None, *, trim: bool = False
) -> jinja2.Template:
    """The template `name` of pipelines/templates/; `trim` takes away the line ends and indents of its blocks."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=trim, lstrip_blocks=trim)
    environment.filters |= filters or {}
    return environment.get_template(name)
