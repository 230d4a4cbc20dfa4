"""What a run wrote down: one JSON object a line in metrics.jsonl, and the curves drawn from it."""

import io
import json
import os
from collections.abc import Sequence
from typing import Any

from maskmill.data_contracts import write_bytes
from maskmill.data_contracts.storage import naming
from maskmill.data_contracts.texts import parse_json

Record = dict[str, Any]


class MetricsLog:
    """metrics.jsonl of one run folder. Going on at step n drops the lines of later steps, so none appears twice.
    `write` False: it is another process's file.
    """

    def __init__(self, path: str, start: int, *, write: bool = True) -> None:
        self.path, self._write = path, write
        self.records = [r for r in read_log(path) if r["step"] < start] if write else []
        if write:
            write_bytes(path, "".join(json.dumps(r) + "\n" for r in self.records).encode())

    def write(self, record: Record) -> None:
        """Append one line and hand it to the system at once."""
        self.records.append(record)
        if not self._write:
            return
        with naming(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")


def read_log(path: str) -> list[Record]:
    """The records of a metrics.jsonl; a last line that was cut off by a kill is dropped."""
    if not os.path.exists(path):
        return []
    records = []
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            if line.endswith("\n"):
                records.append(parse_json(line))
    return records


def draw_curves(records: Sequence[Record], evaluations: Sequence[Record]) -> bytes:
    """PNG: losses over steps on the left, learning rate and evaluation metrics on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for name in _numbers(records, skip={"step", "lr", "images_per_s"}):
        points = [(r["step"], r[name]) for r in records if name in r]
        losses.plot(*zip(*points, strict=True), label=name, linewidth=1)
    for name in _numbers(evaluations, skip={"step", "images"}):
        points = [(r["step"], r[name]) for r in evaluations if r.get(name) is not None]
        scores.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    losses.set(xlabel="step", title="training")
    scores.set(xlabel="step", title="evaluation")
    for axes in (losses, scores):
        if axes.lines:
            axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _numbers(records: Sequence[Record], skip: set[str]) -> list[str]:
    """Names whose value is a number somewhere, in order of appearance."""
    names = {k: None for r in records for k, v in r.items() if isinstance(v, (int, float)) and k not in skip}
    return list(names)
