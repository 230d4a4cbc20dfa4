"""`maskmill label read-tags`: tags of one's own photos to Sample and WeakLabel shards, ready for trainer weclip."""

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape

from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.data_contracts.sums import Listed
from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.label_commands.common import ImagesOption, summary, telling
from maskmill.pipelines.cli.options import JsonOption
from maskmill.pipelines.core.lock import working

NAME = "read-tags"


def command(
    images: ImagesOption,
    tags: Annotated[str, typer.Option(help='JSON {"photo.jpg": ["horse"], …} or CSV with columns file, classes')],
    out: Annotated[str, typer.Option(help="folder for samples/, weak/, label_space.yaml and train.yaml")],
    label_space: Annotated[
        str | None, typer.Option(help="built-in label space or YAML file; without it: the names in the tags")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What each photo shows, by name, to WeakLabel shards; and a config that trains a segmenter on nothing else."""
    from maskmill.pipelines.weak.tags import names_in, read_tags, tag_photos

    found = read_tags(tags)
    space = load_label_space(label_space) if label_space else LabelSpace.from_names(names_in(found))
    with working(out):
        with telling() as tell:
            counts = tag_photos(images, found, out, space, lambda report: tell("read", report))
        recipe = write_recipe(out, space)
    say(summary(counts).replace("labelled", "tagged"))
    say(escape(f"next: maskmill train {recipe} --out {out}/segmenter"))
    result({"weak": f"{out}/weak", "counts": counts, "train": recipe})


def write_recipe(out: str, space: LabelSpace) -> str:
    """Leave label_space.yaml and a config for trainer weclip; returns the path of the latter."""
    here = str(Path(out).absolute())
    data = {"samples": f"{here}/samples", "weak": f"{here}/weak"}
    recipe = {"trainer": "weclip", "label_space": f"{here}/label_space.yaml", "data": data}
    with Listed(out, more=True) as files:
        for name, value in (
            ("label_space", space.model_dump(mode="json", exclude_defaults=True)),
            ("train", {**recipe, "settings": {"preset": "starter"}}),
        ):
            files.write(f"{name}.yaml", yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode())
    return f"{out}/train.yaml"
