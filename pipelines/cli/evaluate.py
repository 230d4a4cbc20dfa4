"""`maskmill evaluate`: metrics of an artifact on samples with true masks."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.core.settings import check_settings, parse_pairs, put
from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact


def evaluate(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="folder that `maskmill train` left: OUT/artifact")
    ],
    samples: Annotated[
        list[str],
        typer.Option(help="folder of Sample shards with masks, e.g. RUN/samples; NAME=DIR, repeated, for several sets"),
    ],
    out: Annotated[str, typer.Option(help="where metrics.json and overlays.png go; several sets: a folder each")],
    overrides: SetOption = None,
    decisions: Annotated[
        str | None, typer.Option(help="decisions of a run (RUN/decisions.parquet): only what it kept")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a trained artifact on samples with true masks: mIoU, Dice, pixel accuracy, IoU of each class.

    `--set` says how images reach it and what follows: predict.scales=[1.0,0.75], predict.flip=true, predict.window=512,
    crf.backend=auto (metrics with a dense CRF as well). An artifact of few_shot is measured on episodes of the classes
    that it has not seen: settings.test_shots=5, settings.test_episodes=1000.
    """
    sets = dict(_named(item) for item in samples)
    found: dict[str, dict[str, object]] = {}
    for name, folder in sets.items():
        given: dict[str, Any] = {
            "artifact": artifact,
            "data": {"samples": folder, "decisions": decisions},
            "device": device,
        }
        for key, value in parse_pairs(overrides).items():
            put(given, key, value)
        place = f"{out}/{name}" if len(sets) > 1 else out
        found[name] = evaluate_artifact(check_settings(given, EvaluateConfig, "evaluate"), place)
        for metric, value in found[name].items():
            if isinstance(value, float):
                say(f"{f'{name} ' if len(sets) > 1 else ''}{metric}: {value:.4f}")
    say(f"metrics and overlays: [bold]{escape(str(out))}[/]")
    result({"artifact": artifact, "out": out, "metrics": found if len(sets) > 1 else next(iter(found.values()))})


def _named(item: str) -> tuple[str, str]:
    """NAME=DIR, or DIR under the name of its folder."""
    name, mark, folder = item.partition("=")
    return (name, folder) if mark and "/" not in name else (item.rstrip("/").replace("/", "-"), item)
