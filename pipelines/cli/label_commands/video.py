"""`maskmill label video`: masks for a clip from boxes in its first frame."""

from typing import Annotated

import typer
from rich.console import Console

from maskmill.pipelines.cli.console import readable_errors

NAME = "video"
console = Console()


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
    agent: Annotated[str, typer.Option(help="artefact folder of the trainer ftmu (see docs/ftmu.md)")],
    policy: Annotated[str, typer.Option(help="learned, always_update or never_update")] = "learned",
    rate: Annotated[int, typer.Option(help="frames a second of the overlay video", min=1)] = 12,
) -> None:
    """Follow the boxes of a clip's first frame: masks of every frame as PNG files and shards, and an overlay video."""
    from maskmill.pipelines.weak.label_clip import label_clip

    with readable_errors(console):
        report = label_clip(clip, boxes, out, agent, policy=policy, rate=rate)
        console.print(f"labelled {report.labelled} of {report.frames} frames: {', '.join(report.objects)}")
        console.print(f"masks: [bold]{out}/masks[/], video: [bold]{out}/overlay.mp4[/]", soft_wrap=True)
