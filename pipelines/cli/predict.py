"""`maskmill predict`: masks of photos by a trained artifact."""

from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say, warn
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.cli.progress import progress
from maskmill.pipelines.stages.predict import predict_photos


def predict(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="folder that `maskmill train` left: OUT/artefact")
    ],
    images: Annotated[str, typer.Option(help="folder of photos, with any folders in it")],
    out: Annotated[str, typer.Option(help="where masks, confidence maps and overlays go")] = "predictions",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Masks for a folder of photos by a trained segmenter: PNG files of class ids, confidence, overlays."""
    with progress() as report:
        report("predict", 0, None, "started")
        done = predict_photos(
            artifact, images, out, device=device, progress=lambda n: report("predict", n, None, "written")
        )
    for one in done:
        if one.problem is not None:
            warn(f"{one.name}: {one.problem}")
    say(escape(f"{sum(one.problem is None for one in done)} of {len(done)} photos: masks in {out}/masks"))
    result({"out": out, "photos": [vars(one) for one in done]})
