"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from maskmill.pipelines.cli.lazy import hear

ConfigArgument = Annotated[str, typer.Argument(help="YAML file, or the name of a preset (maskmill list presets)")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="override one key, e.g. --set select.rho=0.7 (repeatable; values are YAML)"),
]
ArtifactArgument = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="folder that `maskmill train` left: OUT/artifact")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="one JSON object on stdout; words go to stderr", callback=hear("as_json"))
]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="fill a run folder anew that another source filled")]
RecheckOption = Annotated[
    bool, typer.Option("--recheck", help="read the whole source and every byte of every shard again; make what differs")
]
RetryOption = Annotated[
    list[str] | None,
    typer.Option("--retry", help="try samples again that were rejected for this reason, e.g. missing_image"),
]
