"""The ledger: in = kept + rejected by reason, per shard and per run; sums that disagree are an error."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from maskmill.data_contracts import (
    DECISION,
    SAMPLE,
    SCORE,
    LabelSpace,
    Reason,
    content_id,
    list_shards,
    read_bytes,
    read_footer,
    read_shard,
    write_if_changed,
)
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.core import index
from maskmill.pipelines.core.examples import Example, first_examples
from maskmill.pipelines.core.review import Review, relabels_of, review_of
from maskmill.pipelines.core.verdicts import SHARD

if TYPE_CHECKING:
    from rich.table import Table

KEPT = Reason.KEPT.value
VERSION = "1"  # of the account: raise it where the same shards give another


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
    review: Review | None = None  # what people said of the samples; None where nobody did

    @model_serializer(mode="wrap")
    def _without_empty_review(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs that nobody reviewed keep the bytes that they have always had."""
        dumped: dict[str, Any] = dump(self)
        return dumped if self.review else {key: value for key, value in dumped.items() if key != "review"}

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
        noted = [f"\n{line}" for line in self.remarks]
        return "\n".join(["| stage | | samples | share |", "|---|---|---:|---:|", *rows, *noted]) + "\n"

    @property
    def remarks(self) -> list[str]:
        """Lines below the account: what ingest read by a rule, and what people said."""
        rules = ", ".join(f"{number:,} × {what}" for what, number in self.notes.items())
        found = [f"Read by a rule: {rules}."] if rules else []
        return [*found, self.review.words] if self.review else found

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
        table = Table("stage", "", title=title, caption="\n".join(self.remarks) or None)
        table.add_column("samples", justify="right")
        table.add_column("share", justify="right")
        for stage, what, rows, share in self.lines():
            style = {"in": "bold", KEPT: "bold green"}.get(what)
            table.add_row(stage, what, f"{rows:,}", f"{share:.1%}", style=style, end_section=what == "in")
        return table


def _bold(what: str) -> str:
    return f"**{what}**" if what in ("in", KEPT) else what


def build_ledger(run_dir: str) -> Ledger:
    """Account for every sample of a run, one shard in memory at a time; as it was kept where no shard has changed.

    Checked for every shard: rows and rejects add up to what ingest counted; every row has one score once scores are
    there, and one decision once decisions are there; no decision is about a row that the shard does not hold.

    Raises:
        LedgerError: names the shard, what was expected and what was found.
    """
    index.recall_footers(run_dir)
    stamp = _stamp(run_dir)
    if run_dir not in _built or _built[run_dir][0] != stamp:
        kept = index.recall(run_dir, "ledger", stamp)
        _built[run_dir] = stamp, _account(run_dir) if kept is None else Ledger.model_validate(kept)
    return _built[run_dir][1]


_built: dict[str, tuple[str, Ledger]] = {}  # the last account of each folder, and what it was made from


def keep_ledger(run_dir: str) -> None:
    """Let later commands take the account as it is, for as long as every shard is the same."""
    stamp, ledger = _built[run_dir]
    index.note(run_dir, "ledger", stamp, ledger.model_dump(mode="json"))


def _stamp(run_dir: str) -> str:
    """Names and contents of all shards that the account is of."""
    paths = [path for name in ("samples", "rejects", "scores") for path in list_shards(f"{run_dir}/{name}")]
    tables = (f"{run_dir}/{name}" for name in ("decisions.parquet", SHARD))
    footers = [(path, read_footer(path)) for path in (*paths, *tables)]
    found = (f"{path.rsplit('/', 2)[-2:]}={footer.content}:{footer.rows}" for path, footer in footers if footer)
    return content_id(VERSION, str(len(paths)), *found)


def _account(run_dir: str) -> Ledger:
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
    relabels = relabels_of(run_dir) if decided is not None else {}
    for name in sorted({*samples, *rejects}):
        rows = _Rows.of(samples.get(name))
        verdicts = None if decided is None else decided.get(name, {})
        turned_away = _turned_away(rejects.get(name))
        _check_ingest(name, samples.get(name), len(rows.ids), turned_away)
        if scores:
            _check_ids(name, "score", rows.ids, _ids(scores.get(name)))
        if verdicts is not None:
            _check_ids(name, "decision", rows.ids, list(verdicts))
        shards.append(_shard(name, len(rows.ids), turned_away, verdicts))
        for sample_id, class_ids in zip(rows.ids, rows.class_ids, strict=True):
            classes_in.update(class_ids)
            if verdicts and verdicts[sample_id][1] == KEPT:
                relabel = relabels.get(sample_id)
                classes_kept.update(relabel.ids(class_ids) if relabel else class_ids)
        licences |= rows.licences
        notes += rows.notes
    return Ledger(
        shards=tuple(shards),
        classes_in=dict(sorted(classes_in.items())),
        classes_kept=dict(sorted(classes_kept.items())),
        licences=sorted(licences),
        examples=first_examples(run_dir),
        notes=dict(sorted(notes.items())),
        review=None if decided is None else review_of(run_dir),
    )


@dataclass(frozen=True)
class _Rows:
    """What the account needs of a Sample shard."""

    ids: list[str]
    class_ids: list[list[int]]
    licences: set[str]
    notes: Counter[str]

    @classmethod
    def of(cls, path: str | None) -> "_Rows":
        if path is None:
            return cls([], [], set(), Counter())
        table = read_shard(path, SAMPLE, ["sample_id", "class_ids", "provenance"])
        licences = pc.unique(pc.struct_field(table.column("provenance"), "licence")).to_pylist()
        extra = pc.struct_field(table.column("provenance"), "extra")
        noted = extra.filter(pc.fill_null(pc.match_substring(extra, '"notes"'), False)).to_pylist()
        notes: Counter[str] = Counter()
        for text in noted:
            notes.update(_notes(text))
        ids, classes = (table.column(name).to_pylist() for name in ("sample_id", "class_ids"))
        return cls(ids, classes, {one for one in licences if one}, notes)


def _notes(extra: str) -> dict[str, int]:
    """What ingest noted on a row."""
    try:
        notes = parse_json(extra).get("notes", {})
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


def _check_ids(name: str, what: str, ids: list[str], stated: list[str]) -> None:
    rows = set(ids)
    if len(stated) == len(rows) and rows == set(stated):
        return
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
