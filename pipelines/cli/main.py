"""The command line. Every command teaches: what it reads, what it writes, what comes next."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from maskmill.pipelines.cli.console import readable_errors
from maskmill.pipelines.cli.init import init_command
from maskmill.pipelines.cli.label import app as label_app
from maskmill.pipelines.cli.train import train_command
from maskmill.pipelines.core.settings import parse_pairs
from maskmill.pipelines.core.step import Outcome
from maskmill.pipelines.run.config import RunConfig, load_run_config
from maskmill.pipelines.run.run import RunReport
from maskmill.pipelines.run.run import plan as plan_run
from maskmill.pipelines.run.run import run as run_all
from maskmill.pipelines.run.steps import STEPS

app = typer.Typer(
    name="maskmill",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="""Curate and pseudo-label training data for segmentation, and explain every kept and dropped sample.

One YAML config is one run. `maskmill run CONFIG` takes it from source to report; the single steps
(`ingest`, `score`, `dedup`, `select`, `export`, `report`) do the same piece by piece. Nothing that is done
is done again: run the same command after a crash, a changed threshold or new data, and only what
depends on the change is made.

Start with `maskmill demo`, then `maskmill plan CONFIG` to see what a run would do.""",
)
console = Console()

ConfigArgument = Annotated[str, typer.Argument(help="YAML file, or the name of a preset in configs/")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="override one key, e.g. --set select.pcs_tau=0.2 (repeatable; values are YAML)"),
]


def _load(config: str, overrides: list[str] | None) -> RunConfig:
    return load_run_config(config, parse_pairs(overrides))


class _Bars:
    """A progress bar per step, with samples by reason as they come."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int, outcome: Outcome) -> None:
        if step not in self._bars:
            self._bars[step] = self._progress.add_task(step, total=total, note="")
        note = "" if outcome.status == "written" else "already done"
        self._progress.update(self._bars[step], completed=done, note=note)


def execute(config: RunConfig, until: str | None = None) -> RunReport:
    """Run with progress bars, then print the ledger and where to look."""
    columns = (
        TextColumn("{task.description:>15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        report = run_all(config, until=until, progress=_Bars(progress))
    console.print(report.ledger.rich_table())
    for step in report.steps:
        if step.written and step.name in ("ingest", "generate", "score"):
            rate = sum(step.counts.values()) / step.seconds
            console.print(f"{step.name}: {rate:.1f} samples/s ({step.seconds:.1f} s, {step.written} shards)")
    if report.idle:
        console.print("Nothing to do: every shard was there already, with the fingerprint that it would get now.")
    if until is None:
        console.print(f"report: [bold]{config.run_dir}/report/index.html[/]")
    return report


@app.command()
def run(config: ConfigArgument, overrides: SetOption = None) -> None:
    """Run everything: source → scores → duplicates → selection → export → report."""
    with readable_errors(console):
        execute(_load(config, overrides))


@app.command()
def plan(config: ConfigArgument, overrides: SetOption = None) -> None:
    """Show what `run` would do, what it would skip, and why. Writes nothing and loads no weights it does not need."""
    with readable_errors(console):
        table = Table("step", "shards", "to do", "to skip", "why", title=f"plan for {config}")
        for line in plan_run(_load(config, overrides)):
            table.add_row(line.step, str(line.units), str(line.to_run), str(line.units - line.to_run), line.words)
        console.print(table)


def _step_command(name: str, text: str) -> None:
    def command(config: ConfigArgument, overrides: SetOption = None) -> None:
        with readable_errors(console):
            execute(_load(config, overrides), until=name)

    command.__doc__ = text
    app.command(name)(command)


for _name, _row in STEPS.items():
    if _row.command:
        _step_command(_name, _row.command)


@app.command()
def regenerate(
    config: ConfigArgument,
    sample_id: Annotated[str, typer.Argument(help="id of the sample (or the first digits of it)")],
    out: Annotated[Path, typer.Option(help="folder for image and mask")] = Path("regenerated"),
    overrides: SetOption = None,
) -> None:
    """Make one sample again from what its row says, and say whether the bytes are the same."""
    from maskmill.pipelines.run.regenerate import regenerate_sample

    with readable_errors(console):
        result = regenerate_sample(_load(config, overrides), sample_id, out)
    console.print(result.message, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if result.same else 1)


@app.command()
def demo(
    run_dir: Annotated[str, typer.Option(help="where the demo goes; planted faults go beside it")] = "runs/demo",
) -> None:
    """The whole job on what ships with maskmill: draw pairs, score them, select, train a small segmenter on what was
    kept and one on as many at random; then plant faults in drawn scenes, and see which are caught.
    """
    from maskmill.pipelines.cli.demo import print_faults, print_subsets

    with readable_errors(console):
        made, planted = (
            _load(name, [f"run_dir={folder}"])
            for name, folder in (("demo", run_dir), ("demo-faults", f"{run_dir}-faults"))
        )
        execute(made)
        execute(planted)
        print_faults(planted, console)
        print_subsets(made, console)


app.add_typer(label_app, name="label")
app.command("train")(train_command)
app.command("init")(init_command)
