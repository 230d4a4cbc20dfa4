"""`maskmill label …`: pseudo-labels for a folder of photos, or for contract shards."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from data_contracts import LabelSpace, load_label_space
from pipelines.config import ConfigError
from pipelines.label import LabelConfig, label, label_units
from pipelines.settings import load_settings, parse_pairs, readable_errors
from pipelines.stage import UnitReport

app = typer.Typer(
    no_args_is_help=True, help="Turn weak labels into masks: `clip-cam` for photos, `shards` for all else."
)
console = Console()


@app.command("clip-cam")
def clip_cam(
    images: Annotated[str, typer.Option(help="folder of photos, with any folders in it")],
    out: Annotated[str, typer.Option(help="where masks, overlays and the page go")],
    classes: Annotated[str | None, typer.Option(help="names with commas, e.g. 'horse,person'")] = None,
    label_space: Annotated[
        str | None, typer.Option(help="instead of --classes: a built-in label space or a YAML file")
    ] = None,
    model: Annotated[str | None, typer.Option(help="open_clip model, local folder, or `starter`")] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip tag or weight file")] = None,
    preset: Annotated[str | None, typer.Option(help="`starter`, or `faithful` = CLIP-ES on ViT-B/16")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="one option of clip_cam, e.g. --set refine=crf (repeatable)")
    ] = None,
) -> None:
    """Masks for a folder of photos from class names alone; no training. Writes PNG masks, overlays and index.html.

    Which of the classes a photo shows is asked of CLIP; photos that show none are listed with that reason.
    """
    from pipelines.label_photos import label_photos

    with readable_errors(console):
        space = _space(classes, label_space)
        given: dict[str, Any] = {"preset": preset, "model": model, "pretrained": pretrained}
        settings = {**{key: value for key, value in given.items() if value is not None}, **parse_pairs(overrides)}
        with Progress(console=console) as bar:
            tasks = {name: bar.add_task(name, total=None) for name in ("read", "label")}

            def tell(name: str, report: UnitReport) -> None:
                bar.update(tasks[name], advance=1)

            counts = label_photos(images, out, space, "clip_cam", settings, tell)
        _summary(counts)
        console.print(f"masks: [bold]{out}/masks[/], page: [bold]{out}/index.html[/]", soft_wrap=True)


@app.command("shards")
def shards(
    config: Annotated[
        str, typer.Argument(help="YAML file of a labelling run: labeler, label_space, samples, weak, settings")
    ],
    out: Annotated[str, typer.Option(help="folder for the PseudoLabel shards")],
    overrides: Annotated[list[str] | None, typer.Option("--set", "-s", help="override one key (repeatable)")] = None,
) -> None:
    """Label Sample shards by any labeler; shards that are labelled already are skipped. Next: `maskmill train`."""
    with readable_errors(console):
        wanted = load_settings(config, LabelConfig, overrides)
        with Progress(console=console) as bar:
            task = bar.add_task("label", total=len(label_units(wanted, out)))
            counts = label(wanted, out, progress=lambda report: bar.update(task, advance=1))
        _summary(counts)


def _space(classes: str | None, label_space: str | None) -> LabelSpace:
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    if bool(names) == bool(label_space):
        raise ConfigError("expected either --classes 'horse,person' or --label-space voc, found both or neither")
    return load_label_space(label_space) if label_space else LabelSpace.from_names(names)


def _summary(counts: dict[str, int]) -> None:
    left_out = ", ".join(
        f"{number} {reason.replace('_', ' ')}" for reason, number in counts.items() if reason != "kept"
    )
    console.print(
        f"labelled {counts.get('kept', 0)} of {sum(counts.values())}" + (f" ({left_out})" if left_out else "")
    )
