"""RUN/cache: what a finished run knows of itself, so that the next command need not read every file again.

Nothing here decides anything: each entry names what it was made from, an entry that does not fit is made anew, and a
damaged or missing file costs time and no more.
"""

import json
from typing import Any

from maskmill.data_contracts import bytes_hash, read_bytes, where_writable, write_if_changed
from maskmill.data_contracts.shards import FOOTERS, Footer

FOLDER = "cache"


def recall(run_dir: str, name: str, stamp: str) -> Any:
    """The value of entry `name` that was made from `stamp`; None where there is none, or one of another stamp."""
    try:
        head, _, body = read_bytes(_path(run_dir, name)).partition(b"\n")
        told = json.loads(head)
        return json.loads(body) if told == {"stamp": stamp, "sum": bytes_hash(body)} else None
    except (OSError, ValueError):
        return None


def note(run_dir: str, name: str, stamp: str, value: Any) -> None:
    """Keep the value of an entry. Does nothing where nobody may write."""
    body = json.dumps(value, separators=(",", ":")).encode()
    head = json.dumps({"stamp": stamp, "sum": bytes_hash(body)}).encode()
    with where_writable():
        write_if_changed(_path(run_dir, name), head + b"\n" + body)


def recall_footers(run_dir: str) -> None:
    """Learn the footers that an earlier command read, for as long as their files are the same. Only local folders."""
    kept = recall(run_dir, "footers", "1") if "://" not in run_dir else None
    if kept:
        FOOTERS.learn(run_dir, {path: ((a, b, c, d), _footer(raw)) for path, [a, b, c, d], raw in kept})


def note_footers(run_dir: str) -> None:
    """Keep the footers that this process has read."""
    if "://" in run_dir:
        return
    known = FOOTERS.inside(run_dir)
    note(run_dir, "footers", "1", [[path, stamp, vars(footer)] for path, (stamp, footer) in known.items()])


def _footer(raw: dict[str, Any]) -> Footer:
    return Footer(**{**raw, "inputs": tuple(raw["inputs"])})


def _path(run_dir: str, name: str) -> str:
    return f"{run_dir.rstrip('/')}/{FOLDER}/{name}.json"
