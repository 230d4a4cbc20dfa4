"""`maskmill ingest`, `score`, `dedup`, `select`, `export`, `report`: a run up to and including one step."""

from collections.abc import Callable

from maskmill.pipelines.cli.options import (
    ConfigArgument,
    JsonOption,
    RecheckOption,
    ReplaceOption,
    RetryOption,
    SetOption,
)
from maskmill.pipelines.cli.run import execute, load_config
from maskmill.pipelines.core.step import asked
from maskmill.pipelines.run.steps import STEPS


def _command(name: str) -> Callable[..., None]:
    def command(
        config: ConfigArgument,
        overrides: SetOption = None,
        recheck: RecheckOption = False,
        retry: RetryOption = None,
        replace: ReplaceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        execute(load_config(config, overrides), until=name, again=asked(recheck, retry, replace))

    command.__doc__ = STEPS[name].command
    return command


ingest, score, dedup, select, export, report = map(_command, ("ingest", "score", "dedup", "select", "export", "report"))
