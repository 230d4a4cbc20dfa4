"""`maskmill train CONFIG`: train any registered trainer, evaluate it, and say where the artefact lies."""

from typing import Annotated

import typer
from rich.console import Console

console = Console()


def train_command(
    config: Annotated[str, typer.Argument(help="YAML file: trainer, label_space, data, val, settings")],
    out: Annotated[str, typer.Option(help="folder of the run; the artefact goes to OUT/artefact")],
    overrides: Annotated[list[str] | None, typer.Option("--set", "-s", help="override one key (repeatable)")] = None,
) -> None:
    """Train a segmenter on contract shards. A killed run goes on; a finished one is skipped."""
    from maskmill.pipelines.cli.console import readable_errors
    from maskmill.pipelines.core.settings import load_settings
    from maskmill.pipelines.stages.build import BuildConfig, build_segmenter
    from maskmill.pipelines.stages.train import TrainConfig

    with readable_errors(console):
        result = build_segmenter(BuildConfig(train=load_settings(config, TrainConfig, overrides)), out)
        for name in ("miou", "dice", "pixel_accuracy"):
            if isinstance(value := result.metrics.get(name), float):
                console.print(f"{name}: {value:.4f}")
        console.print(f"artefact: [bold]{result.artifact}[/]", soft_wrap=True)
