"""One sample of a run in words: what was decided and why, its scores beside their thresholds, duplicates, source."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import pyarrow.compute as pc

from maskmill.data_contracts import (
    DECISION,
    NEIGHBOUR,
    SAMPLE,
    SCORE,
    Contract,
    LabelSpace,
    Reason,
    list_shards,
    read_footer,
    read_shard,
)
from maskmill.pipelines.core.ledger import KEPT
from maskmill.pipelines.core.verdicts import Verdict, honoured, read_reviewed
from maskmill.pipelines.ingest.quarantine import quarantined
from maskmill.pipelines.report.words import explain, label
from maskmill.pipelines.run.config import RunConfig

Row = dict[str, Any]
SHOWN = 5  # names listed where more are meant

GATES = {  # score column: (reason of its gate, its threshold in the config, who is turned away: those "up to" it …)
    "image_score": (Reason.LOW_IMAGE_SCORE, "image_score_tau", "up to"),
    "asf": (Reason.LOW_ASF, "min_score", "below"),
    "pcs": (Reason.LOW_PCS, "pcs_tau", "up to"),
    "h_orig": (Reason.HIGH_ENTROPY, "max_entropy", "from"),
}
TITLES = {"image_score": "image score", "asf": "ASF", "pcs": "PCS", "h_orig": "entropy"}


@dataclass(frozen=True)
class Explanation:
    """All that a run knows of one sample, without pixels. Tables that are not there yet leave None or nothing."""

    sample_id: str
    sample: Row | None  # None: ingest turned it away
    decision: Row | None
    scores: Row | None
    limits: dict[str, tuple[float, float]]  # score column: lowest and highest threshold that was held against it
    duplicates: list[tuple[str, float, str, str]] = field(default_factory=list)  # id, cosine, set, what became of it
    space: LabelSpace | None = None
    verdict: Verdict | None = None  # the last word of a person on it
    honoured: bool = True  # whether the decision knows of it, or of its having been taken back
    kept_files: list[str] = field(default_factory=list)  # of a sample that was turned away, in quarantine

    def __str__(self) -> str:
        parts = (self._verdict(), self._review(), self._scores(), self._classes(), self._duplicates(), self._source())
        return "\n".join(line for part in parts for line in part)

    def _verdict(self) -> Iterator[str]:
        found = self.decision
        if found is None:
            yield f"{self.sample_id}: not decided yet; run select"
            return
        kept = found["reason"] == KEPT
        yield f"{self.sample_id}: " + ("kept" if kept else f"rejected by {found['stage']}: {label(found['reason'])}")
        if not kept and (sentence := explain(found["reason"])):
            yield f"  {sentence}."
        if found["detail"]:
            yield f"  why: {found['detail']}"
        if found["score"] is not None and found["threshold"] is not None:
            yield f"  decided by {found['score']:.3g}, held against {found['threshold']:.3g}"

    def _review(self) -> Iterator[str]:
        found = self.verdict
        if found is not None:
            deed = {"none": "a note", "relabel": f"relabel to {found.to_class}"}.get(found.verdict, found.verdict)
            which = "" if found.from_class_id is None else f", what was {self._name(found.from_class_id)}"
            yield f"  review: {deed}{which}, {found.words}"
        if not self.honoured:
            yield "  review: said since the decision; the next run honours it"
        if self.decision and self.decision["relabel_to"] is not None:
            yield f"  exported as {self._name(self.decision['relabel_to'])}: its mask's ids are mapped on the way out"

    def _scores(self) -> Iterator[str]:
        found = self.scores
        if found is None:
            return
        if found["reason"]:
            yield f"  not scored: {label(found['reason'])}: {found['detail'] or ''}"
        for column, title in TITLES.items():
            if found[column] is not None:
                yield f"  {title} {found[column]:.3g}{self._limit(column)}"
        if found["swap_class_id"] is not None:
            yield f"  CLIP prefers a class that the label does not name: {self._name(found['swap_class_id'])}"

    def _limit(self, column: str) -> str:
        if column not in self.limits:
            return ""
        low, high = self.limits[column]
        edge = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}, by class"
        return f" (turned away {GATES[column][2]} {edge})"

    def _classes(self) -> Iterator[str]:
        if self.sample is None:
            return
        stated = {"in the mask": self.sample["class_ids"], "asked for": self.sample["prompt_class_ids"]}
        words = [f"{how}: {', '.join(map(self._name, ids))}" for how, ids in stated.items() if ids]
        yield "  classes " + ("; ".join(words) or "none stated")

    def _name(self, class_id: int) -> str:
        known = self.space is not None and class_id in self.space.by_id
        return self.space.by_id[class_id].name if known and self.space else f"class {class_id}"

    def _duplicates(self) -> Iterator[str]:
        if self.decision and self.decision["duplicate_of"]:
            yield f"  in its place: {self.decision['duplicate_of']}"
        for other, cosine, name, fate in self.duplicates[:SHOWN]:
            where = "" if name == "self" else f" of {name}"
            yield f"  like {other}{where} (cosine {cosine:.3f}{fate and ', ' + fate})"
        if (more := len(self.duplicates) - SHOWN) > 0:
            yield f"  and like {more} more"

    def _source(self) -> Iterator[str]:
        if self.sample is None:
            if self.decision and self.decision["source_path"]:
                yield f"  source: {self.decision['source_path']}"
            yield from (f"  its file as given: {path}" for path in self.kept_files)
            return
        made = self.sample["provenance"]
        yield f"  source: {made['source']} {made['source_path'] or ''}, in samples/{self.sample['shard']}"
        if made["prompt"]:
            by = [str(made["model_id"])] if made["model_id"] else []
            by += [] if made["seed"] is None else [f"seed {made['seed']}"]
            yield f"  prompt: {made['prompt']}" + (f" ({', '.join(by)})" if by else "")
        if made["licence"]:
            yield f"  licence: {made['licence']}"


def explain_sample(run_dir: str, asked: str, config: RunConfig | None = None) -> Explanation:
    """What became of one sample, and why. `asked` is its id, the first digits of the id, or its file: path or name
    inside its source, with or without suffix. `config` adds class names, and thresholds that turned nobody away.

    Raises:
        KeyError: no such sample, or several; lists them.
    """
    run_dir = run_dir.rstrip("/")
    sample_id = find_sample(run_dir, asked)
    decided = read_table([f"{run_dir}/decisions.parquet"], DECISION)
    turned_away = read_table(list_shards(f"{run_dir}/rejects"), DECISION)
    pairs = read_table([f"{run_dir}/neighbours.parquet"], NEIGHBOUR)
    reviewed = read_reviewed(run_dir)
    said = None if reviewed is None else reviewed.verdicts.get(sample_id)
    rejected = _row(turned_away, sample_id)
    return Explanation(
        sample_id=sample_id,
        verdict=said,
        honoured=said == honoured(run_dir).get(sample_id),
        sample=_row(read_table(list_shards(f"{run_dir}/samples"), SAMPLE, _COLUMNS, sample_id), sample_id),
        decision=_row(decided, sample_id) or rejected,
        scores=_row(read_table(list_shards(f"{run_dir}/scores"), SCORE, _SCORES, sample_id), sample_id),
        limits=_limits(decided, config),
        duplicates=_duplicates(pairs, sample_id, decided),
        space=None if config is None else config.space,
        kept_files=[] if rejected is None else quarantined(run_dir, rejected["reason"], sample_id),
    )


_COLUMNS = ["sample_id", "class_ids", "prompt_class_ids", "provenance"]
_SCORES = ["sample_id", *TITLES, "swap_class_id", "reason", "detail"]


def find_sample(run_dir: str, asked: str) -> str:
    """The id that `asked` stands for: see `explain_sample`.

    Raises:
        KeyError: no such sample, or several; lists them.
    """
    names = _names(run_dir)
    path = PurePosixPath(asked)
    for fits in (
        lambda sample_id, file: sample_id == asked,
        lambda sample_id, file: bool(asked) and sample_id.startswith(asked),
        lambda sample_id, file: file == str(path),
        lambda sample_id, file: file.endswith(f"/{path}"),
        lambda sample_id, file: f"/{PurePosixPath(file).with_suffix('')}".endswith(f"/{path}") if file else False,
    ):
        found = [(sample_id, file) for sample_id, file in names.items() if fits(sample_id, file)]
        if len(found) == 1:
            return found[0][0]
        if found:
            listed = ", ".join(f"{sample_id[:12]} ({file})" for sample_id, file in found[:SHOWN])
            raise KeyError(f"{asked!r} stands for {len(found)} samples of {run_dir}: {listed}; give more of id or path")
    hint = "ids stand in decisions.parquet and in the report" if names else "nothing is ingested there yet"
    raise KeyError(f"{run_dir}: no sample with id or file {asked!r} among {len(names)}; {hint}")


def _names(run_dir: str) -> dict[str, str]:
    """Path inside the source by sample id, of all samples and of what ingest turned away."""
    rejects = read_table(list_shards(f"{run_dir}/rejects"), DECISION, ["sample_id", "source_path"])
    samples = read_table(list_shards(f"{run_dir}/samples"), SAMPLE, ["sample_id", "provenance"])
    parts = (rejects, samples.with_columns(pl.col("provenance").struct.field("source_path")))
    return {name: path or "" for part in parts for name, path in part.select("sample_id", "source_path").iter_rows()}


def read_table(
    paths: list[str], contract: Contract, columns: list[str] | None = None, sample_id: str | None = None
) -> pl.DataFrame:
    """The rows of all shards that are there (only those of one sample, with `sample_id`), and in `shard` the name of
    their file.
    """
    parts = []
    for path in paths:
        if read_footer(path) is None:
            continue
        table = read_shard(path, contract, columns).replace_schema_metadata(None)
        if sample_id is not None:
            table = table.filter(pc.equal(table["sample_id"], sample_id))
        parts.append(_with_shard(pl.DataFrame(table), path.rsplit("/", 1)[-1]))
    if not parts:
        return _with_shard(pl.DataFrame(contract.schema.empty_table().select(columns or contract.schema.names)), "")
    return pl.concat(parts)


def _with_shard(table: pl.DataFrame, name: str) -> pl.DataFrame:
    return table if "shard" in table.columns else table.with_columns(shard=pl.lit(name))


def _row(table: pl.DataFrame, sample_id: str) -> Row | None:
    return next(table.filter(pl.col("sample_id") == sample_id).iter_rows(named=True), None)


def _limits(decided: pl.DataFrame, config: RunConfig | None) -> dict[str, tuple[float, float]]:
    """Lowest and highest threshold by score column: those that turned somebody away, else the fixed ones of the
    config.
    """
    found: dict[str, tuple[float, float]] = {}
    for column, (reason, key, _) in GATES.items():
        edges = decided.filter(pl.col("reason") == reason.value)["threshold"].drop_nulls().to_list()
        fixed = None if config is None else getattr(config.select, key)
        if not edges and isinstance(fixed, float):
            edges = [fixed]
        if edges:
            found[column] = (min(edges), max(edges))
    return found


def _duplicates(pairs: pl.DataFrame, sample_id: str, decided: pl.DataFrame) -> list[tuple[str, float, str, str]]:
    """Samples that look like this one, most alike first: id, cosine, set, what became of it in this run."""
    one, other = pl.col("sample_id"), pl.col("other_id")
    forth = pairs.filter(one == sample_id).select(id="other_id", cosine="similarity", set="other_set")
    back = pairs.filter((other == sample_id) & (pl.col("other_set") == "self"))
    alike = (
        pl.concat([forth, back.select(id="sample_id", cosine="similarity", set="other_set")])
        .unique(["id", "set"])
        .join(decided.unique("sample_id", keep="first").select(id="sample_id", fate="reason"), on="id", how="left")
        .sort(["cosine", "id"], descending=[True, False])
    )
    return [
        (name, cosine, group, label(fate) if fate and group == "self" else "")
        for name, cosine, group, fate in alike.iter_rows()
    ]
