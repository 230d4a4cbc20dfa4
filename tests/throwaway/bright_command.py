"""A throw-away label command; the command line finds it by itself."""

from typing import Annotated

import typer

NAME = "bright"


def command(images: Annotated[str, typer.Argument(help="folder of photos")]) -> None:
    """Say what would be labelled."""
    print(f"bright: {images}")
