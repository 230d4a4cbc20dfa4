"""One sample made again from what its row says: read from its source, or rendered, or generated; same bytes, or
what differs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.data_contracts import SAMPLE, Problem, list_shards, read_shard
from maskmill.pipelines.ingest.stage import ingest_entry
from maskmill.pipelines.run.config import RunConfig


@dataclass(frozen=True)
class Regenerated:
    """Whether the bytes are the same, and what a person wants to read about it."""

    same: bool
    message: str


def find_row(run_dir: str, prefix: str) -> dict[str, Any]:
    """The Sample row whose id starts with `prefix`.

    Raises:
        KeyError: no such sample, or more than one.
    """
    found: list[tuple[str, str]] = []
    for path in list_shards(f"{run_dir}/samples"):
        ids = read_shard(path, SAMPLE, ["sample_id"]).column(0).to_pylist()
        found += [(path, i) for i in ids if i.startswith(prefix)]
    if len({i for _, i in found}) != 1:
        hint = "give more digits" if found else "ids stand in decisions.parquet and in the report"
        raise KeyError(f"{run_dir}: {len(found)} samples with an id that starts with {prefix!r}; {hint}")
    path, sample_id = found[0]
    return next(row for row in read_shard(path, SAMPLE).to_pylist() if row["sample_id"] == sample_id)


def regenerate_sample(config: RunConfig, prefix: str, out: Path) -> Regenerated:
    """Make the sample again, write image and mask to `out`, and compare them with the stored bytes.

    Raises:
        KeyError: no such sample, or the source does not list it any more.
        FileNotFoundError: the generator's model is not there any more.
    """
    row = find_row(config.run_dir, prefix)
    made = _read_again(config, row) if config.source is not None else _draw_again(config, row)
    if isinstance(made, Problem):
        return Regenerated(False, f"{row['sample_id']}: its source has changed: {made}")
    image, mask, differs = made
    files = ", ".join(_write(out, row["sample_id"], image, mask))
    if not differs:
        return Regenerated(True, f"{row['sample_id']}: same bytes, written to {files}")
    return Regenerated(False, f"{row['sample_id']}: made again, but {'; '.join(differs)}. Written to {files}")


def _write(out: Path, sample_id: str, image: bytes, mask: bytes | None) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, data in (("image", image), ("mask", mask)):
        if data is not None:
            suffix = ".jpg" if data[:2] == b"\xff\xd8" else ".png"
            target = out / f"{sample_id}-{name}{suffix}"
            target.write_bytes(data)
            written.append(str(target))
    return written


Made = tuple[bytes, bytes | None, list[str]]  # image, mask, what differs from the row


def _read_again(config: RunConfig, row: dict[str, Any]) -> Made | Problem:
    key = row["image"]["path"]  # always the key of the entry; provenance may be older
    source = config.source
    entry = next((entry for entry in source.entries() if entry.key == key), None) if source else None
    if source is None or entry is None:
        raise KeyError(f"{key}: the source does not list this sample any more")
    made = ingest_entry(entry, source, config.space)
    if isinstance(made, Problem):
        return made
    again = SAMPLE.table([made]).to_pylist()[0]
    differs = [f"{name} differs" for name in SAMPLE.schema.names if again[name] != row[name]]
    return again["image"]["bytes"], again["mask"] and again["mask"]["bytes"], differs


def _draw_again(config: RunConfig, row: dict[str, Any]) -> Made:
    from maskmill.generators.records import regenerate

    made = regenerate(row, config.space)
    return made.image, made.mask, list(made.differences)
