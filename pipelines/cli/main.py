"""The command line. Every command teaches: what it reads, what it writes, what comes next.

A command is one file in this folder and one line in the table below.
"""

from typing import Annotated

import typer

from maskmill.pipelines.cli.console import out, reset
from maskmill.pipelines.cli.lazy import Lazy, LazyGroup, hear

RUN, STEP, LABEL, LOOK, SHARE = "A whole run", "Step by step", "Labels and models", "Looking", "Schedule and sharing"
HERE = "maskmill.pipelines.cli"
COMMANDS: dict[str, Lazy] = {
    "run": Lazy(f"{HERE}.run:run", "Source or generator to scores, selection, exports and report.", RUN),
    "plan": Lazy(f"{HERE}.plan:plan", "What `run` would do, what it would skip, and why.", RUN),
    "reproduce": Lazy(f"{HERE}.reproduce:reproduce_table", "A published table, ours beside its figures.", RUN),
    "init": Lazy(f"{HERE}.init:init", "A config and a schedule of one's own to start from.", RUN),
    "examples": Lazy(f"{HERE}.examples:examples", "Small sets to try every kind of weak label on.", RUN),
    "demo": Lazy(f"{HERE}.demo:demo", "The whole job on what ships with maskmill.", RUN),
    "ingest": Lazy(f"{HERE}.steps:ingest", "The source as Sample shards; bad samples are recorded.", STEP),
    "score": Lazy(f"{HERE}.steps:score", "A score for every image and mask.", STEP),
    "dedup": Lazy(f"{HERE}.steps:dedup", "Near-duplicates, and leaks into test sets.", STEP),
    "select": Lazy(f"{HERE}.steps:select", "One decision and one reason a sample.", STEP),
    "export": Lazy(f"{HERE}.steps:export", "The kept samples as VOC, COCO, YOLO, …; or a segmenter as ONNX.", STEP),
    "report": Lazy(f"{HERE}.steps:report", "The HTML report.", STEP),
    "regenerate": Lazy(f"{HERE}.regenerate:regenerate", "One sample made again from what its row says.", STEP),
    "deploy": Lazy(f"{HERE}.deploy:deploy", "A config on a schedule, by Prefect.", SHARE),
    "serve": Lazy(f"{HERE}.serve:serve", "The reports of all runs, in the browser.", SHARE),
    "push": Lazy(f"{HERE}.push:push", "An export to a folder, S3 or the Hugging Face Hub.", SHARE),
    "review": Lazy(f"{HERE}.review:review", "Keep, reject or relabel samples by hand, in the browser.", LOOK),
    "explain": Lazy(f"{HERE}.explain:explain", "One sample: what became of it, why, and what would change it.", LOOK),
    "diff": Lazy(f"{HERE}.diff:diff", "What two runs differ in: keys, and decisions on samples.", LOOK),
    "list": Lazy(f"{HERE}.lists:list_names", "Presets, trainers, labelers, sources, exports, scores.", LOOK),
    "config": Lazy(f"{HERE}.config:app", "A config as it will be used; whether it can be; its keys.", LOOK),
    "verify": Lazy(f"{HERE}.verify:verify", "Is every byte of a run or an export as it was written?", LOOK),
    "label": Lazy(f"{HERE}.label:app", "Weak labels to masks: a command a labeler.", LABEL),
    "train": Lazy(f"{HERE}.train:train", "Any trainer on contract shards; leaves an artifact.", LABEL),
    "build": Lazy(f"{HERE}.build:build", "Train, then test on other data.", LABEL),
    "import-checkpoint": Lazy(
        f"{HERE}.import_checkpoint:import_released", "What a release has trained, as an artifact.", LABEL
    ),
    "evaluate": Lazy(f"{HERE}.evaluate:evaluate", "Metrics of an artifact on samples with true masks.", LABEL),
    "predict": Lazy(f"{HERE}.predict:predict", "Masks for a folder of photos by an artifact.", LABEL),
}


class Commands(LazyGroup):
    """maskmill's commands."""

    table = COMMANDS


app = typer.Typer(
    name="maskmill",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"maskmill {version('maskmill')}")
        raise typer.Exit


@app.callback()
def maskmill(
    version: Annotated[bool, typer.Option("--version", help="say the version and end", callback=_version)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="say errors and warnings only")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say more; tracebacks of errors")] = False,
) -> None:
    """Curate and pseudo-label training data for segmentation, and explain every kept and dropped sample.

    One YAML config is one run. `maskmill run CONFIG` takes it from source to report; the single steps do the same
    piece by piece. Nothing that is done is done again: run the same command after a crash, a changed threshold or new
    data, and only what depends on the change is made.

    Start with `maskmill demo`, then `maskmill plan CONFIG` to see what a run would do. Exit codes: docs/cli.md.
    """
    reset()
    hear("quiet")(quiet)
    hear("verbose")(verbose)
