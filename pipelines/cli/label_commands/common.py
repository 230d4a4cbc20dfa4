"""What several label commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape

from maskmill.data_contracts import LabelSpace, load_label_space, read_bytes
from maskmill.data_contracts.sums import Listed
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.cli.console import result, say, warn
from maskmill.pipelines.cli.exits import Exit
from maskmill.pipelines.cli.progress import progress
from maskmill.pipelines.core.settings import ConfigError
from maskmill.pipelines.core.stage import UnitReport

LOOK = "the page says why, photo by photo"
FIXES = {"no_classes": "name what the photos show, in other words; or lower the labeler's tag_threshold (0.1)"}
Tell = Callable[[str, UnitReport], None]
ImagesOption = Annotated[str, typer.Option(help="folder of photos, with any folders in it")]
OutOption = Annotated[str, typer.Option(help="where masks, overlays, the page and a ready train.yaml go")]
LabelerOptions = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="one option of the labeler, e.g. --set refine=crf (repeatable)"),
]


def asked_space(classes: str | None, label_space: str | None) -> LabelSpace:
    """The label space of `--classes a,b` or of `--label-space NAME`.

    Raises:
        ConfigError: both were given, or neither.
    """
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    if bool(names) == bool(label_space):
        raise ConfigError("expected either --classes 'horse,person' or --label-space voc, found both or neither")
    return load_label_space(label_space) if label_space else LabelSpace.from_names(names)


@contextmanager
def telling() -> Iterator[Tell]:
    """A callback for labelling on files: it is called with a step's name and its report after each shard."""
    with progress() as report:
        done: dict[str, int] = {}

        def tell(step: str, unit: UnitReport) -> None:
            if step not in done:
                report(step, 0, None, "started")
            done[step] = done.get(step, 0) + 1
            report(step, done[step], None, unit.status)

        yield tell


def summary(counts: dict[str, int]) -> str:
    """One line: how many were labelled, and how many were not by reason."""
    left_out = ", ".join(
        f"{number} {reason.replace('_', ' ')}" for reason, number in counts.items() if reason != "kept"
    )
    return f"labelled {counts.get('kept', 0)} of {sum(counts.values())}" + (f" ({left_out})" if left_out else "")


def finish(out: str, counts: dict[str, int], space: LabelSpace) -> None:
    """Leave OUT/label_space.yaml and OUT/train.yaml, say what came out and what comes next; see `check_labelled`."""
    write_recipe(out, space)
    say(summary(counts))
    for words in model_words(out):
        say(escape(f"by {words}"))
    say(f"masks: [bold]{escape(out)}/masks[/], page: [bold]{escape(out)}/index.html[/]")
    if counts.get("kept"):
        say(escape(f"next, a segmenter trained on them: maskmill train {out}/train.yaml --out {out}/segmenter"))
    result({"out": out, "counts": counts, "page": f"{out}/index.html", "train": f"{out}/train.yaml"})
    check_labelled(counts)


def model_words(out: str) -> list[str]:
    """Name, licence and size of each model from elsewhere that labelled, as OUT/labels/models.json has them."""
    from maskmill.pipelines.stages.label import MODELS
    from maskmill.vision.model_cards import ModelFacts

    try:
        rows = parse_json(read_bytes(f"{out}/labels/{MODELS}"))
    except FileNotFoundError:
        return []
    return [ModelFacts(**row).words for row in rows]


def check_labelled(counts: dict[str, int]) -> None:
    """End with status 3 and the key to turn where nothing was labelled."""
    if not counts.get("kept"):
        reason = max(counts, key=lambda name: counts[name], default="")
        warn(f"nothing was labelled{f', mostly for {reason}' if reason else ''} → {FIXES.get(reason, LOOK)}")
        raise typer.Exit(Exit.EMPTY)


def write_recipe(out: str, space: LabelSpace) -> None:
    """A label space and a training config for the shards in OUT/samples and OUT/labels."""
    here = str(Path(out).absolute()) if "://" not in out else out.rstrip("/")
    data = {"samples": f"{here}/samples", "labels": f"{here}/labels"}
    recipe = {"trainer": "supervised", "label_space": f"{here}/label_space.yaml", "data": data}
    with Listed(out, more=True) as files:
        files.write("label_space.yaml", _yaml(space.model_dump(mode="json", exclude_defaults=True)))
        files.write("train.yaml", _yaml(recipe))


def _yaml(value: object) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()
