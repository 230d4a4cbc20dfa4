"""`maskmill import-checkpoint`: what a published method's own code has trained, as an artifact of ours."""

from typing import Annotated

import typer

from maskmill.data_contracts import load_label_space
from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.core.settings import parse_nested
from maskmill.pipelines.stages.import_checkpoint import import_checkpoint


def import_released(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="trainer whose release left the file: base_learner, dcfm, few_shot, scwssod or weclip",
        ),
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="its checkpoint: .pth, .pt or .safetensors")],
    out: Annotated[str, typer.Option(help="where the artifact goes")],
    label_space: Annotated[str, typer.Option(help="built-in name or YAML file of the classes")] = "voc",
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a released checkpoint into an artifact, so that its table can be checked without training.

    Settings are those of the trainer's preset `faithful`, with `--set KEY=VALUE` over it; a frozen CLIP that lies in a
    file is named by `--set pretrained=ViT-B-16.pt`. The file is read without running anything in it.
    """
    settings = {"preset": "faithful", **parse_nested(overrides)}
    folder = import_checkpoint(method, file, out, load_label_space(label_space), settings)
    say(f"artifact: [bold]{folder}[/]")
    say(f"next: maskmill evaluate {folder} --samples DIR --out DIR")
    result({"artifact": folder, "method": method, "file": file})
