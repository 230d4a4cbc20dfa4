"""The first samples of each reason, in the words that were recorded: what a person reads after a step."""

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from maskmill.data_contracts import DECISION, SAMPLE, Reason, list_shards, read_footer, read_shard

SHOWN = 2  # examples of a reason
NAMED = 5  # of what was not read: names tell most there
COLUMNS = ["sample_id", "stage", "kept", "reason", "detail", "score", "threshold", "source_path", "shard"]


class Example(BaseModel):
    """One sample that was turned away: its path in the source (or its id), and what was expected, found and advised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    reason: str
    name: str
    words: str


def first_examples(run_dir: str) -> tuple[Example, ...]:
    """The first few examples of every reason of a run's rejects and decisions, in the order of the shards."""
    found: dict[tuple[str, str], list[Example]] = {}
    for row in _rows(run_dir):
        examples = found.setdefault((row["stage"], row["reason"]), [])
        if len(examples) < (NAMED if row["reason"] == Reason.NOT_READ else SHOWN):
            examples.append(_example(row, run_dir))
    return tuple(example for examples in found.values() for example in examples)


def _rows(run_dir: str) -> Iterator[dict[str, Any]]:
    """Rows that were turned away, a few of each reason and file."""
    decisions = f"{run_dir}/decisions.parquet"
    paths = [*list_shards(f"{run_dir}/rejects"), *([decisions] if read_footer(decisions) is not None else [])]
    for path in paths:
        table = read_shard(path, DECISION, COLUMNS)
        table = table.filter(pc.invert(table.column("kept")))
        for reason in pc.unique(table.column("reason")).to_pylist():
            yield from table.filter(pc.equal(table.column("reason"), reason)).slice(0, NAMED).to_pylist()


def _example(row: dict[str, Any], run_dir: str) -> Example:
    words = (row["detail"] or "").removeprefix(row["reason"]).removeprefix(":").strip()
    if not words and row["score"] is not None and row["threshold"] is not None:
        words = f"{row['score']:.4g} against {row['threshold']:.4g}"
    name = row["source_path"] or _path_of(row, run_dir)
    return Example(stage=row["stage"], reason=row["reason"], name=name, words=words)


def _path_of(row: dict[str, Any], run_dir: str) -> str:
    """Where a decided sample came from; its id where nothing says so."""
    sample_id: str = row["sample_id"]
    if row["shard"] is None or read_footer(path := f"{run_dir}/samples/{row['shard']}") is None:
        return sample_id
    table = read_shard(path, SAMPLE, ["sample_id", "provenance"])
    mine = table.filter(pc.equal(table.column("sample_id"), sample_id)).column("provenance").to_pylist()
    path_there = mine[0]["source_path"] if mine else None
    return f"{path_there} ({sample_id[:8]})" if path_there else sample_id
