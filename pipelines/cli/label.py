"""`maskmill label …`: pseudo-labels for a folder of photos, or for contract shards."""

import importlib
import pkgutil
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape

from maskmill.data_contracts.secrets import reference
from maskmill.data_contracts.sums import Listed
from maskmill.pipelines.cli import label_commands
from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.label_commands.common import check_labelled, summary
from maskmill.pipelines.cli.lazy import ReadableGroup
from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.cli.progress import progress
from maskmill.pipelines.core.settings import check_names, load_settings
from maskmill.pipelines.stages.label import LabelConfig, label, label_units

app = typer.Typer(
    cls=ReadableGroup,
    no_args_is_help=True,
    help="Turn weak labels into masks: a command a labeler for files, `shards` for all else.",
)

for _module in pkgutil.iter_modules(label_commands.__path__):
    _command = importlib.import_module(f"{label_commands.__name__}.{_module.name}")
    if hasattr(_command, "NAME"):
        app.command(_command.NAME)(_command.command)


@app.command("shards")
def shards(
    config: Annotated[str, typer.Argument(help="YAML file or preset: labeler, label_space, samples, weak, settings")],
    out: Annotated[str, typer.Option(help="folder for the PseudoLabel shards")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label Sample shards by any labeler; shards that are labelled already are skipped."""
    wanted = load_settings(config, LabelConfig, overrides)
    check_names(wanted)
    wanted.labeler_config()
    total, done = len(label_units(wanted, out)), 0
    with progress() as report:
        report("label", 0, total, "started")

        def tell(status: str) -> None:
            nonlocal done
            report("label", done := done + 1, total, status)

        counts = label(wanted, out, progress=lambda unit: tell(unit.status))
    say(summary(counts))
    recipe = write_recipe(wanted, out)
    if counts.get("kept"):
        say(escape(f"next, a segmenter trained on them: maskmill train {recipe} --out {out.rstrip('/')}-segmenter"))
    result({"labels": out, "counts": counts, "train": recipe})
    check_labelled(counts)


def write_recipe(wanted: LabelConfig, out: str) -> str:
    """Leave label_space.yaml and train.yaml beside the shards; returns the path of the latter."""
    folder = out.rstrip("/")
    space = wanted.space.model_dump(mode="json", exclude_defaults=True)
    data = {"samples": reference(_there(wanted.samples)), "labels": _there(folder)}
    if wanted.decisions is not None:
        data["decisions"] = reference(_there(wanted.decisions))
    recipe = {"trainer": "supervised", "label_space": f"{_there(folder)}/label_space.yaml", "data": data}
    with Listed(folder, more=True) as files:
        for name, value in (("label_space", space), ("train", recipe)):
            files.write(f"{name}.yaml", yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())
    return f"{folder}/train.yaml"


def _there(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())
