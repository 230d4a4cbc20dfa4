"""`maskmill label video`: masks for a clip from boxes in its first frame."""

from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import ConfigError

NAME = "video"


def command(
    clip: Annotated[str, typer.Option(help="folder of frames (one clip, in order of their names), or a video file")],
    boxes: Annotated[
        str,
        typer.Option(
            help='boxes of the first frame: JSON [{"name": "dog", "box": [x0, y0, x1, y1]}, …], or VOC XML, COCO .json '
            "or .csv that name it"
        ),
    ],
    out: Annotated[str, typer.Option(help="where masks, overlay video and shards go")],
    artifact: Annotated[
        str | None,
        typer.Option("--artifact", "--agent", help="what the trainer ftmu left: OUT/artifact (see docs/ftmu.md)"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="instead of --artifact: folder or hub id of SAM 2, EdgeTAM or SAM 3 (see docs/promptable.md)"
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="learned, always_update or never_update")] = "learned",
    rate: Annotated[int, typer.Option(help="frames a second of the overlay video", min=1)] = 12,
    as_json: JsonOption = False,
) -> None:
    """Follow the boxes of a clip's first frame: masks of every frame as PNG files and shards, and an overlay video."""
    from maskmill.pipelines.weak.label_clip import label_clip

    if (artifact is None) == (model is None):
        raise ConfigError("expected either --artifact DIR or --model DIR, found both or neither")
    report = label_clip(clip, boxes, out, artifact, policy=policy, rate=rate, model=model)
    say(f"labelled {report.labelled} of {report.frames} frames: {escape(', '.join(report.objects))}")
    say(f"masks: [bold]{escape(out)}/masks[/], video: [bold]{escape(out)}/overlay.mp4[/]")
    result({"out": out, "frames": report.frames, "labelled": report.labelled, "objects": report.objects})
