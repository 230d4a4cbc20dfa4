"""What a person must see after a run: what went wrong as a whole, and the key to turn. Read off the stored tables."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from maskmill.curation.select.quotas import NO_CUT
from maskmill.data_contracts import LabelSpace, read_bytes
from maskmill.data_contracts.texts import parse_json
from maskmill.data_contracts.words import in_markdown
from maskmill.pipelines.core.ledger import Ledger
from maskmill.pipelines.report.data import Tables
from maskmill.pipelines.report.figures import FloatArray
from maskmill.pipelines.report.words import explain, key_of, label
from maskmill.pipelines.stages.downstream import SUBSETS

FEW = 3  # fewer samples of a class, or rejects, are no sign of anything
SCORED = 8  # scores of a class that can be compared with the others'
APART = 0.9  # share of pairs (one of the class, one of another) in which the class scores lower
SHOWN = 8
NO_FIT = (
    0.1  # share of photos whose own classes rank above the background words; photos of what is named have 0.6 or more
)
FIT = "fit.json"


@dataclass(frozen=True)
class Alarm:
    """One thing that went wrong as a whole, in a sentence, and what to turn or to look at."""

    kind: str
    message: str
    turn: str

    def __str__(self) -> str:
        return f"{self.message} → {self.turn}"


def alarms_of(run_dir: str, tables: Tables, ledger: Ledger, space: LabelSpace) -> list[Alarm]:
    """All alarms of a run, the worst first. Before selection only what ingest shows."""
    decided = not ledger.undecided and ledger.rows_in > 0
    found = [*_nothing_kept(ledger)] if decided else []
    found += _misfit(run_dir)
    found += _one_reason(ledger)
    if decided and ledger.kept:
        found += _lost_classes(ledger, tables, space)
        found += _no_cut(tables)
    return [*found, *_apart(tables.rows, space), *_trained(run_dir)]


def markdown(alarms: list[Alarm]) -> str:
    """The alarms as a Markdown list; empty where there are none."""
    return "".join(f"- **{in_markdown(alarm.message)}** → {alarm.turn}\n" for alarm in alarms)


def _nothing_kept(ledger: Ledger) -> Iterator[Alarm]:
    if ledger.kept == 0:
        reasons = Counter({r.reason: r.rows for r in ledger.rejections})
        most = reasons.most_common(1)[0][0] if reasons else ""
        message = f"nothing was kept: 0 of {ledger.rows_in:,} samples; exports are empty"
        yield Alarm("nothing_kept", message, key_of(most))


def _one_reason(ledger: Ledger) -> Iterator[Alarm]:
    """More than half for one reason, or all rejects for the same one."""
    counts: Counter[str] = Counter()
    for rejection in ledger.rejections:
        counts[rejection.reason] += rejection.rows
    rejected = counts.total()
    for reason, rows in counts.most_common(1):
        share, words = rows / ledger.rows_in, f"{label(reason)} ({explain(reason)})"
        if rows >= FEW and share > 0.5:
            yield Alarm("one_reason", f"{rows:,} of {ledger.rows_in:,} samples rejected as {words}", key_of(reason))
        elif rejected >= FEW and rows == rejected and share >= 0.1:
            yield Alarm("only_reason", f"all {rows:,} rejects have one reason: {words}", key_of(reason))


def _lost_classes(ledger: Ledger, tables: Tables, space: LabelSpace) -> Iterator[Alarm]:
    lost = {i: n for i, n in ledger.classes_in.items() if n >= FEW and not ledger.classes_kept.get(i)}
    rejected = tables.rows.filter(~pl.col("kept"))
    for class_id in sorted(lost, key=lambda i: -lost[i])[:SHOWN]:
        reasons = Counter(rejected.filter(pl.col("class_ids").list.contains(class_id))["reason"].to_list())
        reason, rows = reasons.most_common(1)[0]
        message = (
            f"class {_name(class_id, space)} is lost whole: {lost[class_id]:,} samples, {rows:,} as {label(reason)}"
        )
        yield Alarm("class_lost", message, key_of(reason))


def _no_cut(tables: Tables) -> Iterator[Alarm]:
    """The ranking was to keep a share, and all that the gates left is no more than that: it rejected nothing."""
    placed = tables.rows.filter(pl.col("kept") & pl.col("detail").str.contains(NO_CUT, literal=True).fill_null(False))
    if placed.height:
        message = (
            f"the mask score rejected nothing: the gates before it left {placed.height:,} of {tables.rows.height:,} "
            "samples, no more than the share that was to be kept (rho is 1)"
        )
        yield Alarm("no_cut", message, "set select.rho for a cut among them, or let more pass: select.pcs_tau")


def _apart(rows: pl.DataFrame, space: LabelSpace) -> Iterator[Alarm]:
    """Classes whose scores lie below those of all others: CLIP knows the class badly, or its masks are odd."""
    for column, title in (("image_score", "image scores"), ("asf", "mask scores")):
        scored = rows.select("class_ids", pl.col(column).fill_nan(None)).drop_nulls()
        each = scored.explode("class_ids").drop_nulls()
        for class_id in sorted(each["class_ids"].unique().to_list()):
            own = each.filter(pl.col("class_ids") == class_id)[column].to_numpy()
            rest = scored.filter(~pl.col("class_ids").list.contains(class_id))[column].to_numpy()
            if min(len(own), len(rest)) >= SCORED and (below := _below(own, rest)) >= APART:
                median = f"median {np.median(own):.3f}, the others' {np.median(rest):.3f}"
                message = (
                    f"{title} of class {_name(class_id, space)} lie apart, below {below:.0%} of the others ({median})"
                )
                turn = "look at its masks; are they right, then give its name in other words (`prompt` in label_space)"
                yield Alarm("class_apart", message, turn)


def _below(own: FloatArray, rest: FloatArray) -> float:
    """Share of pairs in which the first is below the second; ties count half."""
    ordered = np.sort(rest)
    above = len(ordered) - np.searchsorted(ordered, own, side="right")
    ties = np.searchsorted(ordered, own, side="right") - np.searchsorted(ordered, own, side="left")
    return float((above + ties / 2).sum() / (len(own) * len(rest)))


def _misfit(run_dir: str) -> Iterator[Alarm]:
    """From RUN/fit.json, which the run leaves beside the scores."""
    try:
        found = parse_json(read_bytes(f"{run_dir}/{FIT}"))
    except (FileNotFoundError, ValueError):
        return
    if found["photos"] >= FEW and found["share"] < NO_FIT:
        names = ", ".join(found["classes"][:SHOWN])
        message = (
            f"CLIP does not see in the photos what the labels name ({names}): only in {found['share']:.0%} of "
            f"{found['photos']:,} photos does a label rank above words like grass, wall or sky"
        )
        turn = "say what the masks show: --set 'label_space=[NAME, …]', or `prompt` in the label space"
        yield Alarm("misfit", message, turn)


def _trained(run_dir: str) -> Iterator[Alarm]:
    """What the networks say of themselves that were trained on the run's subsets."""
    for subset in SUBSETS:
        try:
            found = parse_json(read_bytes(f"{run_dir}/downstream/{subset}/artifact/metrics.json"))
        except (FileNotFoundError, ValueError):
            continue
        for words in found.get("alarms", []):
            message, _, turn = words.rpartition("; ")
            yield Alarm("trained", f"downstream, {SUBSETS[subset]}: {message}", turn)


def _name(class_id: int, space: LabelSpace) -> str:
    return space.by_id[class_id].name if class_id in space.by_id else str(class_id)
