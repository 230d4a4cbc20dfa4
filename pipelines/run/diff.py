"""What two runs differ in: keys of their configs, and what became of their samples."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maskmill.data_contracts import Relabel, read_bytes, read_footer
from maskmill.data_contracts.sums import CHECK
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core.ledger import build_ledger
from maskmill.pipelines.core.review import relabels_of
from maskmill.pipelines.core.verdicts import Verdict, honoured
from maskmill.pipelines.report.data import Change, changes, load_tables
from maskmill.pipelines.report.words import label

ALONE = frozenset({"run_dir", "workers", "ray", CHECK})  # keys that change no sample
SHOWN = 3


@dataclass(frozen=True)
class KeyChange:
    """A key of the config that is one thing in the first run and another in the second (None: not there)."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_short(self.before)} → {_short(self.after)}"


@dataclass(frozen=True)
class RunDiff:
    """What differs between two runs. `counts`: samples by reason, before and after."""

    keys: tuple[KeyChange, ...]
    counts: dict[str, tuple[int, int]]
    changes: tuple[Change, ...]
    verdicts: tuple[str, ...] = ()  # samples on which people say another thing in the second run
    relabelled: tuple[str, ...] = ()  # samples that leave under another class

    @property
    def same(self) -> bool:
        alike = all(before == after for before, after in self.counts.values())
        return alike and not (self.keys or self.changes or self.verdicts or self.relabelled)

    def lines(self) -> Iterator[str]:
        """The difference in words."""
        if self.same:
            yield "the same: config, samples and decisions"
        yield from (f"config {change}" for change in self.keys)
        for reason, (before, after) in self.counts.items():
            if before != after:
                yield f"{label(reason)}: {before:,} → {after:,}"
        for change in self.changes:
            yield f"{len(change.ids):,} samples {label(change.before)} → {label(change.after)}: {_ids(change.ids)}"
        if self.relabelled:
            yield f"{len(self.relabelled):,} samples under another class: {_ids(self.relabelled)}"
        if self.verdicts:
            yield f"{len(self.verdicts):,} samples with another verdict of people: {_ids(self.verdicts)}"

    def data(self) -> dict[str, Any]:
        """The same as values for JSON."""
        return {
            "same": self.same,
            "keys": [asdict(change) for change in self.keys],
            "counts": {reason: list(pair) for reason, pair in self.counts.items()},
            "changes": [asdict(change) for change in self.changes],
            "verdicts": list(self.verdicts),
            "relabelled": list(self.relabelled),
        }


def diff_runs(first: str, second: str) -> RunDiff:
    """Compare two run folders (`first` = before).

    Raises:
        FileNotFoundError: a folder without decisions; says what to run.
    """
    for run_dir in (first, second):
        if read_footer(f"{run_dir}/decisions.parquet") is None:
            raise FileNotFoundError(f"{run_dir}: expected a run with decisions, found none; run it first")
    before, after = (build_ledger(run_dir).counts for run_dir in (first, second))
    reasons = dict.fromkeys([*before, *after])
    return RunDiff(
        keys=tuple(key_changes(_config(first), _config(second))),
        counts={reason: (before.get(reason, 0), after.get(reason, 0)) for reason in reasons},
        changes=tuple(changes(load_tables(second).rows, first)),
        verdicts=_moved(*({i: _said(v) for i, v in honoured(run_dir).items()} for run_dir in (first, second))),
        relabelled=_moved(relabels_of(first), relabels_of(second)),
    )


def _said(verdict: Verdict) -> tuple[str, Relabel | None]:
    """What a verdict comes to, whoever gave it and when."""
    return verdict.verdict, verdict.relabel


def _moved(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    """Ids of which two tables say different things."""
    return tuple(sorted(i for i in before.keys() | after.keys() if before.get(i) != after.get(i)))


def _ids(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(sample_id[:12] for sample_id in ids[:SHOWN]) + more


def key_changes(before: Any, after: Any, key: str = "") -> Iterator[KeyChange]:
    """Dotted keys whose values differ, in the order of the config; a list is compared as a whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            if key or name not in ALONE:
                yield from key_changes(before.get(name), after.get(name), f"{key}.{name}".lstrip("."))
    elif before != after:
        yield KeyChange(key, before, after)


def _config(run_dir: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = parse_json(read_bytes(f"{run_dir}/config.json"))
    except FileNotFoundError:
        return {}
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
