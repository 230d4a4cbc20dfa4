"""`maskmill build`: train and test, as one config says."""

from typing import Annotated

import typer

from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.cli.progress import progress
from maskmill.pipelines.cli.train import tell
from maskmill.pipelines.core.settings import check_names, load_settings
from maskmill.pipelines.stages.build import BuildConfig, build_segmenter


def build(
    config: Annotated[str, typer.Argument(help="YAML file or preset (maskmill list presets): train, test")],
    out: Annotated[str, typer.Option(help="folder for run, artifact and evaluation")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a segmenter and test it on other data: what the flow build-segmenter does."""
    wanted = load_settings(config, BuildConfig, overrides)
    check_names(wanted)
    wanted.train.trainer_config()
    with progress() as report:
        report("build", 0, None, "started")
        done = build_segmenter(wanted, out)
    tell(done)
