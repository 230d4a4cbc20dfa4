"""`maskmill push`: an export to a folder, an object store or the Hugging Face Hub."""

from typing import Annotated

import typer
from rich.markup import escape

from maskmill.data_contracts.secrets import redact
from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.export.push import push_export


def push(
    export: Annotated[str, typer.Argument(metavar="EXPORT", help="folder of an export: RUN/export/hf")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="folder, s3://bucket/path, or hf://datasets/OWNER/NAME")
    ],
    as_json: JsonOption = False,
) -> None:
    """Bring an export to where others are. Only files that changed travel; those of an earlier push that are gone are
    removed, files that others put there stay.
    """
    done = push_export(export, target)
    say(escape(f"{redact(target)}: {done.written} files written, {done.there} there already, {done.removed} removed"))
    result({"target": target, "written": done.written, "there": done.there, "removed": done.removed})
