"""`maskmill label read-scribbles`: drawn (or simulated) strokes to WeakLabel shards."""

from typing import Annotated

import typer
from rich.markup import escape

from maskmill.pipelines.cli.console import result, say
from maskmill.pipelines.cli.label_commands.common import summary, telling
from maskmill.pipelines.cli.options import JsonOption, SetOption
from maskmill.pipelines.core.lock import working
from maskmill.pipelines.core.settings import check_names, load_settings

NAME = "read-scribbles"


def command(
    config: Annotated[str, typer.Argument(help="YAML file or preset: samples, kind (png, xml, simulated) …")],
    out: Annotated[str, typer.Option(help="folder for weak/ and rejects/")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Scribbles for Sample shards to WeakLabel shards in OUT/weak. Next: `maskmill train` with those as `weak`."""
    from maskmill.pipelines.weak.scribbles import ScribbleConfig, read_scribbles

    wanted = load_settings(config, ScribbleConfig, overrides)
    check_names(wanted)
    with working(out), telling() as tell:
        counts = read_scribbles(wanted, out, progress=lambda report: tell("scribbles", report))
    say(summary(counts))
    say(escape(f"next: a training config with `weak: {out}/weak` for trainer dfr or scwssod (maskmill list trainers)"))
    result({"weak": f"{out}/weak", "counts": counts})
