"""`maskmill init [DIR]`: a config and a schedule of one's own to start from."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import say

FILES = Path(__file__).resolve().parents[1] / "templates" / "init"


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="folder to write to; made where there is none")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="overwrite the files where they are there already")] = False,
) -> None:
    """Write a config with every common key explained (maskmill.yaml) and a schedule (prefect.yaml) into a folder.

    Next: name your data in maskmill.yaml, then `maskmill plan maskmill.yaml`.
    """
    written = write_files(folder, force)
    say(escape(f"wrote {' and '.join(map(str, written))}"))
    say(NEXT.format(folder=folder))


NEXT = """Next, in {folder}:
  1. in maskmill.yaml set source.root to the folder that holds images/ and masks/
  2. maskmill plan maskmill.yaml        # what would run, and why
  3. maskmill run maskmill.yaml         # ends with runs/mine/report/index.html
Every night, once that works:
  export PREFECT_API_URL=http://127.0.0.1:4200/api
  prefect server start &
  maskmill deploy maskmill.yaml        # work pool, schedule, and what marks runs of dead workers as crashed
  prefect worker start --pool maskmill"""


def write_files(folder: Path, force: bool = False) -> list[Path]:
    """Copy all files to `folder`, or none; returns their paths.

    Raises:
        FileExistsError: one of them is there already, and `force` is not given. NotADirectoryError: no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: expected a folder, found a file; name another folder")
    targets = {path: folder / path.name for path in sorted(FILES.glob("*.yaml"))}
    if not force and (there := [str(target) for target in targets.values() if target.exists()]):
        raise FileExistsError(f"{', '.join(there)}: there already, so nothing was written; --force overwrites")
    folder.mkdir(parents=True, exist_ok=True)
    for path, target in targets.items():
        target.write_bytes(path.read_bytes())
    return list(targets.values())
