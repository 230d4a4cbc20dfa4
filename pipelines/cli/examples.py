"""`maskmill examples DIR`: small sets to try every kind of weak label on."""

from pathlib import Path
from typing import Annotated

import typer

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption


def examples(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="folder to write to: a new or an empty one")] = Path(
        "example"
    ),
    as_json: JsonOption = False,
) -> None:
    """Draw small sets from what ships with maskmill: photos with masks, tags, boxes and strokes; a few labelled images
    of a new class; groups that share one thing; clips with boxes in their first frame; slices of scans.

    Every recipe of docs/recipes runs on them as it stands. Drawings they are: no figure on them speaks of photos.
    """
    from maskmill.pipelines.weak.examples import write_examples

    counts = write_examples(folder)
    say(f"wrote {sum(counts.values())} files to [bold]{folder}[/]: {', '.join(counts)}")
    say(f"next: maskmill run folder --set source.root={folder} --set 'label_space=\\[cat, dog, horse]'")
    result({"folder": str(folder), "files": counts})
