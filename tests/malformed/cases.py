"""A malformed input: how it is made, what reads it, and what must be said of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.data_contracts import DECISION, SAMPLE, LabelSpace, load_label_space, read_shard
from maskmill.pipelines.core.stage import map_units
from maskmill.pipelines.ingest import SOURCES, ingest_stage, ingest_units

Files = Mapping[str, bytes | str]
Make = Callable[[], Files]


@dataclass(frozen=True)
class Said:
    """What reading a malformed input came to: `kept` samples, and a line for each that was turned away, or the error
    that ended it.
    """

    kept: int
    lines: tuple[str, ...] = ()
    error: str = ""
    kind: str = ""  # class of the error, for the test that it is one of words


@dataclass(frozen=True)
class Case:
    """`expected` is a regular expression that one of the lines, or the error, matches; "kept" where nothing is wrong
    with the sample after all. `share` is that of the limit on memory which it may use: an image of an eighth of the
    pixels that are allowed shows what they all would take, in an eighth of the time.
    """

    name: str
    read: Callable[[Path], Said]
    expected: str
    share: float = 1.0


def lay_out(folder: Path, files: Files) -> Path:
    """Write files below a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def ingest(kind: str, options: Mapping[str, Any], root: Path, space: LabelSpace) -> Said:
    """A source through the ingest stage."""
    source = SOURCES.load(kind).model_validate({"kind": kind, "root": str(root), "threads": 1, **options})
    kept, lines = 0, []
    units = ingest_units(source, str(root.parent / "run"), 64)
    for report in map_units(ingest_stage(source, space), units):
        kept += read_shard(report.unit.outputs[0], SAMPLE, ["sample_id"]).num_rows
        for row in read_shard(report.unit.outputs[1], DECISION).to_pylist():
            lines.append(f"{row['source_path']}: {row['detail']}")
    return Said(kept, tuple(lines))


def of_source(name: str, kind: str, make: Make, expected: str, space: str | LabelSpace = "voc", **options: Any) -> Case:
    """Files that a source reads. `options` may be those of the source."""

    def read(folder: Path) -> Said:
        found = load_label_space(space) if isinstance(space, str) else space
        return ingest(kind, options, lay_out(folder / "set", make()), found)

    return Case(f"{kind}: {name}", read, expected)


def of_command(command: str, name: str, make: Make, call: Callable[[Path], Any], expected: str) -> Case:
    """Files that a function reads which a command calls; it must raise."""

    def read(folder: Path) -> Said:
        call(lay_out(folder, make()))
        return Said(1)

    return Case(f"{command}: {name}", read, expected)


def text(value: object) -> bytes:
    """JSON."""
    return json.dumps(value).encode()
