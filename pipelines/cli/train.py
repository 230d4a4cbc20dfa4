"""`maskmill train`: train any registered trainer, evaluate it, and say where the artifact lies."""

from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say, warn
from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.cli.progress import progress
from maskmill.pipelines.core.settings import check_names, load_settings
from maskmill.pipelines.stages.build import BuildConfig, BuildResult, build_segmenter
from maskmill.pipelines.stages.train import TrainConfig

SHOWN = ("miou", "dice", "pixel_accuracy")


def train(
    config: Annotated[str, typer.Argument(help="YAML file or preset (maskmill list presets): trainer, data, settings")],
    out: Annotated[str, typer.Option(help="folder of the run; the artifact goes to OUT/artifact")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a segmenter on contract shards. A killed run goes on; a finished one is skipped."""
    wanted = load_settings(config, TrainConfig, overrides)
    check_names(wanted)
    wanted.trainer_config()
    with progress() as report:
        report("train", 0, None, "started")
        done = build_segmenter(BuildConfig(train=wanted), out)
    tell(done)


def tell(done: BuildResult) -> None:
    """Say metrics and where the artifact lies."""
    for name in SHOWN:
        if isinstance(value := done.metrics.get(name), float):
            say(f"{name}: {value:.4f}")
    for alarm in done.alarms:
        warn(alarm)
    say(f"artifact: [bold]{escape(str(done.artifact))}[/]")
    say(escape(f"next: maskmill predict {done.artifact} --images DIR --out DIR"))
    result({"artifact": done.artifact, "metrics": done.metrics, "alarms": list(done.alarms)})
