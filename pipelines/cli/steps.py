"""`maskmill ingest`, `score`, `dedup`, `select`, `export`, `report`: a run up to and including one step."""

from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import (
    ConfigArgument,
    JsonOption,
    RecheckOption,
    ReplaceOption,
    RetryOption,
    SetOption,
)
from maskmill.pipelines.cli.run import execute, load_config
from maskmill.pipelines.core.step import asked
from maskmill.pipelines.run.steps import STEPS


def _command(name: str) -> Callable[..., None]:
    def command(
        config: ConfigArgument,
        overrides: SetOption = None,
        recheck: RecheckOption = False,
        retry: RetryOption = None,
        replace: ReplaceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        execute(load_config(config, overrides), until=name, again=asked(recheck, retry, replace))

    command.__doc__ = STEPS[name].command
    return command


def export(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="preset or YAML file of a run; with --onnx an artifact folder")
    ],
    overrides: SetOption = None,
    recheck: RecheckOption = False,
    retry: RetryOption = None,
    replace: ReplaceOption = False,
    onnx: Annotated[
        str | None,
        typer.Option(help="write the segmenter of the artifact folder CONFIG to this ONNX file, and export no run"),
    ] = None,
    size: Annotated[str | None, typer.Option(help="with --onnx: height x width of its photos, e.g. 480x640")] = None,
    as_json: JsonOption = False,
) -> None:
    """The kept samples of a run as VOC, COCO, YOLO, WebDataset, Hugging Face; or a trained segmenter as ONNX."""
    if onnx is None:
        execute(load_config(config, overrides), until="export", again=asked(recheck, retry, replace))
        return
    from maskmill.pipelines.stages.onnx import artifact_to_onnx

    found = artifact_to_onnx(config, onnx, size)
    say(f"{escape(onnx)}: {found.bytes / 1e6:.1f} MB, photos of {found.size[0]} x {found.size[1]} pixels")
    result({"out": onnx, "bytes": found.bytes, "height": found.size[0], "width": found.size[1]})


ingest, score, dedup, select, report = map(_command, ("ingest", "score", "dedup", "select", "report"))
