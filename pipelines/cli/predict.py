"""`maskmill predict`: masks of photos by a trained artifact."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say, warn
from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.cli.progress import progress
from maskmill.pipelines.core.settings import check_settings, parse_pairs, put
from maskmill.pipelines.stages.predict import PredictOptions, predict_photos


def predict(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="folder that `maskmill train` left: OUT/artifact")
    ],
    images: Annotated[str, typer.Option(help="folder of photos, with any folders in it")],
    out: Annotated[str, typer.Option(help="where masks, confidence maps and overlays go")] = "predictions",
    overrides: SetOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Masks for a folder of photos by a trained segmenter: PNG files of class ids, confidence, overlays.

    `--set` says how photos reach it and what follows: predict.scales=[1.0,0.75], predict.flip=true, predict.window=512,
    crf.backend=auto, layout=voc_server.
    """
    given: dict[str, Any] = {}
    for key, value in parse_pairs(overrides).items():
        put(given, key, value)
    options = check_settings(given, PredictOptions, "predict")
    with progress() as report:
        report("predict", 0, None, "started")
        done = predict_photos(
            artifact,
            images,
            out,
            device=device,
            options=options,
            progress=lambda n: report("predict", n, None, "written"),
        )
    for one in done:
        if one.problem is not None:
            warn(f"{one.name}: {one.problem}")
    say(escape(f"{sum(one.problem is None for one in done)} of {len(done)} photos: masks in {out}/{options.masks}"))
    result({"out": out, "photos": [vars(one) for one in done]})
