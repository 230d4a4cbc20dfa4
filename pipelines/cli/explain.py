"""`maskmill explain`: one sample of a run, and everything that is known about it."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.explain import explain_sample
from maskmill.pipelines.run.outlook import outlook, places


def explain(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="run folder")],
    sample: Annotated[str, typer.Argument(metavar="FILE_OR_ID", help="id, its first digits, or path of the image")],
    as_json: JsonOption = False,
) -> None:
    """Say what became of one sample and why: source, prompt, scores beside thresholds, decision, what would change it,
    duplicates, labels, and the exports that hold it.
    """
    config = config_of(run_dir)
    found = explain_sample(run_dir, sample, config)
    words = [*str(found).splitlines(), *outlook(run_dir.rstrip("/"), found)]
    for line in words:
        say(escape(line))
    data = {name: value for name, value in asdict(found).items() if name not in ("space", "verdict")}
    data["verdict"] = found.verdict and found.verdict.model_dump(mode="json")
    result({**data, "words": words, "places": places(run_dir.rstrip("/"), found)})


def config_of(run_dir: str) -> RunConfig | None:
    """The config that a run folder was made with; None where it cannot be read any more."""
    try:
        return load_run_config(f"{run_dir.rstrip('/')}/config.json", {"run_dir": run_dir})
    except ConfigError:
        return None
