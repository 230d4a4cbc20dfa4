"""`maskmill evaluate`: metrics of an artifact on samples with true masks."""

from typing import Annotated

import typer

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact
from maskmill.trainers.engine import DataConfig


def evaluate(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="folder that `maskmill train` left: OUT/artefact")
    ],
    samples: Annotated[str, typer.Option(help="folder of Sample shards with masks, e.g. RUN/samples")],
    out: Annotated[str, typer.Option(help="where metrics.json and overlays.png go")],
    decisions: Annotated[
        str | None, typer.Option(help="decisions of a run (RUN/decisions.parquet): only what it kept")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a trained artifact on samples with true masks: mIoU, Dice, pixel accuracy, IoU of each class."""
    data = DataConfig(samples=(samples,), decisions=decisions)
    found = evaluate_artifact(EvaluateConfig(artifact=artifact, data=data, device=device), out)
    for name, value in found.items():
        if isinstance(value, float):
            say(f"{name}: {value:.4f}")
    say(f"metrics and overlays: [bold]{out}[/]")
    result({"artifact": artifact, "out": out, "metrics": found})
