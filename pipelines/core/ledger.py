"""The ledger: in = kept + rejected by reason, per shard and per run; sums that disagree are an error."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    SCORE,
    LabelSpace,
    Reason,
    list_shards,
    read_bytes,
    read_footer,
    read_shard,
    write_if_changed,
)
from maskmill.pipelines.core.examples import Example, first_examples

if TYPE_CHECKING:
    from rich.table import Table

KEPT = Reason.KEPT.value


class LedgerError(ValueError):
    """Samples went missing, or were counted twice. Names the shard."""


class Rejection(BaseModel):
    """Rows that one stage turned away for one reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    reason: str
    rows: int


class ShardLedger(BaseModel):
    """One shard's account: rows_in = kept + undecided + all rejections. `undecided` rows wait for selection."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shard: str
    rows_in: int
    ingested: int
    kept: int
    undecided: int
    rejections: tuple[Rejection, ...]

    @property
    def rejected(self) -> int:
        return sum(r.rows for r in self.rejections)


class Ledger(BaseModel):
    """The account of a run: its shards, and kept and ingested samples by class id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shards: tuple[ShardLedger, ...]
    classes_in: dict[int, int]  # ingested samples that show the class
    classes_kept: dict[int, int]
    licences: list[str]
    examples: tuple[Example, ...] = ()  # the first few samples of each reason, with the words that were recorded
    notes: dict[str, int] = {}  # what ingest read by a rule that people may want to check: what, and how often

    @property
    def rows_in(self) -> int:
        return sum(s.rows_in for s in self.shards)

    @property
    def ingested(self) -> int:
        return sum(s.ingested for s in self.shards)

    @property
    def kept(self) -> int:
        return sum(s.kept for s in self.shards)

    @property
    def undecided(self) -> int:
        return sum(s.undecided for s in self.shards)

    @property
    def not_read(self) -> int:
        """What lies in the source's folders and nothing read; `rows_in` counts it."""
        return sum(r.rows for r in self.rejections if r.reason == Reason.NOT_READ)

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """Over all shards; stages in the order of the run, then most frequent first."""
        total: Counter[tuple[str, str]] = Counter()
        for r in (r for s in self.shards for r in s.rejections):
            total[r.stage, r.reason] += r.rows
        ordered = sorted(total.items(), key=lambda item: (item[0][0] != "ingest", item[0][0], -item[1], item[0][1]))
        return tuple(Rejection(stage=stage, reason=reason, rows=rows) for (stage, reason), rows in ordered)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason, `kept` among them (and `undecided` before selection); they add up to `rows_in`."""
        total: Counter[str] = Counter({KEPT: self.kept})
        for r in self.rejections:
            total[r.reason] += r.rows
        if self.undecided:
            total["undecided"] = self.undecided
        return dict(total)

    def class_counts(self, space: LabelSpace) -> dict[str, int]:
        """Kept samples by class name."""
        return {space.by_id[i].name: n for i, n in sorted(self.classes_kept.items()) if i in space.by_id}

    def lines(self) -> list[tuple[str, str, int, float]]:
        """The run's account, line by line: stage, what, rows, share of what came in."""
        total = self.rows_in
        raw = [("", "in", total), *((r.stage, r.reason, r.rows) for r in self.rejections), ("", KEPT, self.kept)]
        if self.undecided:
            raw.append(("", "undecided", self.undecided))
        return [(stage, what, rows, rows / total if total else 0.0) for stage, what, rows in raw]

    def write(self, path: str) -> None:
        """Write as JSON, atomically, unless it is there."""
        write_if_changed(path, (self.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: str) -> "Ledger":
        return cls.model_validate_json(read_bytes(path))

    def markdown(self) -> str:
        """The run's account as a Markdown table."""
        rows = [f"| {stage} | {_bold(what)} | {rows:,} | {share:.1%} |" for stage, what, rows, share in self.lines()]
        noted = [f"\n{self.noted}"] if self.notes else []
        return "\n".join(["| stage | | samples | share |", "|---|---|---:|---:|", *rows, *noted]) + "\n"

    @property
    def noted(self) -> str:
        """What ingest read by a rule, in a line."""
        return "Read by a rule: " + ", ".join(f"{number:,} × {what}" for what, number in self.notes.items()) + "."

    def rich_table(self, per_shard: bool = False) -> "Table":
        """The run's account for the terminal; with `per_shard`, one line a shard."""
        from rich.table import Table

        if per_shard:
            table = Table("shard", *(f"{r.stage}\n{r.reason}" for r in self.rejections), title="Ledger by shard")
            for name in ("in", "kept"):
                table.add_column(name, justify="right")
            for s in self.shards:
                found = {(r.stage, r.reason): r.rows for r in s.rejections}
                cells = [str(found.get((r.stage, r.reason), 0)) for r in self.rejections]
                table.add_row(s.shard, *cells, str(s.rows_in), str(s.kept))
            return table
        title = "Ledger: in = kept + rejected + not read"
        table = Table("stage", "", title=title, caption=self.noted if self.notes else None)
        table.add_column("samples", justify="right")
        table.add_column("share", justify="right")
        for stage, what, rows, share in self.lines():
            style = {"in": "bold", KEPT: "bold green"}.get(what)
            table.add_row(stage, what, f"{rows:,}", f"{share:.1%}", style=style, end_section=what == "in")
        return table


def _bold(what: str) -> str:
    return f"**{what}**" if what in ("in", KEPT) else what


def build_ledger(run_dir: str) -> Ledger:
    """Account for every sample of a run, one shard in memory at a time.

    Checked for every shard: rows and rejects add up to what ingest counted; every row has one score once scores are
    there, and one decision once decisions are there; no decision is about a row that the shard does not hold.

    Raises:
        LedgerError: names the shard, what was expected and what was found.
    """
    samples = {_name(path): path for path in list_shards(f"{run_dir}/samples")}
    rejects = {_name(path): path for path in list_shards(f"{run_dir}/rejects")}
    scores = {_name(path): path for path in list_shards(f"{run_dir}/scores")}
    decided = decisions_by_shard(run_dir)
    if decided is not None and (lost := sorted(set(decided) - set(samples))):
        raise LedgerError(f"{lost[0]}: {len(decided[lost[0]])} decisions, but no such sample shard; run select again")
    shards: list[ShardLedger] = []
    classes_in: Counter[int] = Counter()
    classes_kept: Counter[int] = Counter()
    licences: set[str] = set()
    notes: Counter[str] = Counter()
    for name in sorted({*samples, *rejects}):
        rows = list(_rows(samples.get(name)))
        verdicts = None if decided is None else decided.get(name, {})
        turned_away = _turned_away(rejects.get(name))
        _check_ingest(name, samples.get(name), len(rows), turned_away)
        if scores:
            _check_ids(name, "score", {row["sample_id"] for row in rows}, _ids(scores.get(name)))
        if verdicts is not None:
            _check_ids(name, "decision", {row["sample_id"] for row in rows}, list(verdicts))
        shards.append(_shard(name, len(rows), turned_away, verdicts))
        for row in rows:
            classes_in.update(row["class_ids"])
            if verdicts and verdicts[row["sample_id"]][1] == KEPT:
                classes_kept.update(row["class_ids"])
            if row["provenance"]["licence"]:
                licences.add(row["provenance"]["licence"])
            notes.update(_notes(row["provenance"]["extra"]))
    return Ledger(
        shards=tuple(shards),
        classes_in=dict(sorted(classes_in.items())),
        classes_kept=dict(sorted(classes_kept.items())),
        licences=sorted(licences),
        examples=first_examples(run_dir),
        notes=dict(sorted(notes.items())),
    )


def _notes(extra: str | None) -> dict[str, int]:
    """What ingest noted on a row."""
    if extra is None or '"notes"' not in extra:
        return {}
    try:
        notes = json.loads(extra).get("notes", {})
        return {str(what): int(number) for what, number in notes.items()}
    except (ValueError, TypeError, AttributeError):  # somebody else's provenance
        return {}


def decisions_by_shard(run_dir: str) -> dict[str, dict[str, tuple[str, str]]] | None:
    """Stage and reason of every decision, by shard name and sample id; None where nothing is decided yet.

    Raises:
        LedgerError: a decision that names no shard, or that says kept with another reason (or the reverse).
    """
    path = f"{run_dir}/decisions.parquet"
    if read_footer(path) is None:
        return None
    table = read_shard(path, DECISION, ["sample_id", "stage", "kept", "reason", "shard"])
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for sample_id, stage, kept, reason, shard in zip(*(c.to_pylist() for c in table.columns), strict=True):
        if shard is None:
            raise LedgerError(f"{path}: the decision on sample {sample_id} names no shard; run select again")
        if kept != (reason == KEPT):
            raise LedgerError(f"{shard}: sample {sample_id} has kept = {kept} and reason {reason!r}; run select again")
        found.setdefault(shard, {})[sample_id] = (stage, reason)
    return found


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _rows(path: str | None) -> Iterator[dict[str, Any]]:
    if path is not None:
        yield from read_shard(path, SAMPLE, ["sample_id", "class_ids", "provenance"]).to_pylist()


def _ids(path: str | None) -> list[str]:
    if path is None:
        return []
    ids: list[str] = read_shard(path, SCORE, ["sample_id"]).column(0).to_pylist()
    return ids


def _turned_away(path: str | None) -> Counter[tuple[str, str]]:
    if path is None:
        return Counter()
    table = read_shard(path, DECISION, ["stage", "reason"])
    return Counter(zip(*(c.to_pylist() for c in table.columns), strict=True))


def _check_ingest(name: str, path: str | None, rows: int, turned_away: Counter[tuple[str, str]]) -> None:
    counts = (footer.counts if (footer := read_footer(path)) else {}) if path else {}
    if not counts:  # shards that others wrote state no counts
        return
    found = Counter({KEPT: rows})
    for (_, reason), number in turned_away.items():
        found[reason] += number
    if +Counter(counts) != +found:
        raise LedgerError(f"{name}: ingest counted {counts}, the shards hold {dict(found)}; run ingest again")


def _check_ids(name: str, what: str, rows: set[str], stated: Iterable[str]) -> None:
    counted = Counter(stated)
    problems = {
        f"rows without a {what}": sorted(rows - set(counted)),
        f"{what}s without a row": sorted(set(counted) - rows),
        f"rows with more than one {what}": sorted(i for i, n in counted.items() if n > 1),
    }
    for words, ids in problems.items():
        if ids:
            raise LedgerError(f"{name}: {len(ids)} {words}, e.g. {ids[0]}; expected one each. Run the stage again")


def _shard(
    name: str, rows: int, turned_away: Counter[tuple[str, str]], verdicts: dict[str, tuple[str, str]] | None
) -> ShardLedger:
    rejected = Counter(turned_away)
    decided = Counter((verdicts or {}).values())
    kept = sum(number for (_, reason), number in decided.items() if reason == KEPT)
    rejected.update({key: number for key, number in decided.items() if key[1] != KEPT})
    return ShardLedger(
        shard=name,
        rows_in=rows + sum(turned_away.values()),
        ingested=rows,
        kept=kept,
        undecided=rows - sum(decided.values()),
        rejections=tuple(Rejection(stage=s, reason=r, rows=n) for (s, r), n in sorted(rejected.items())),
    )
