"""The samples of a run as columns for the page's script: what it sorts, searches, filters and shows one by one."""

from typing import Any

import polars as pl
from jinja2.utils import htmlsafe_json_dumps

from maskmill.data_contracts import NEIGHBOUR, LabelSpace, Reason, read_footer, read_shard
from maskmill.pipelines.core.verdicts import Verdicts
from maskmill.pipelines.report.colours import reason_colour, reason_pattern
from maskmill.pipelines.report.scores import GATES, HIGHEST, SIDES, same_scores, thresholds
from maskmill.pipelines.report.words import SCORES, explain, label

NEAR = 5  # neighbours of a sample
MOST_ROWS = 20_000  # in the page; a run may have millions
LOWER_PASSES = (Reason.HIGH_ENTROPY.value, Reason.NEAR_DUPLICATE.value, Reason.LEAKS_INTO_TEST.value)

MARGIN = (
    pl.when(pl.col("reason").is_in(LOWER_PASSES))
    .then(pl.col("threshold") - pl.col("score"))
    .otherwise(pl.col("score") - pl.col("threshold"))
    .alias("margin")
)
"""How far the score that decided lies on the good side of its threshold."""


def worst_first(rows: pl.DataFrame) -> list[str]:
    """Ids by their margin, then by their mask score: the furthest below first; those without either last."""
    return rows.with_columns(MARGIN).sort(["margin", "asf", "sample_id"], nulls_last=True)["sample_id"].to_list()


def records(
    rows: pl.DataFrame, space: LabelSpace, css: dict[int, str], near: dict[str, list[tuple[str, float, str]]]
) -> dict[str, Any]:
    """Columns of `rows` in their order, and the tables that their numbers point into."""
    reasons = sorted(rows["reason"].unique().to_list())
    sources = sorted(rows["source"].drop_nulls().unique().to_list())
    there = {i for column in ("class_ids", "leaves_as") for i in rows[column].explode().drop_nulls().to_list()}
    classes = [i for i in space.ids if i in there]
    rows = rows.with_columns(MARGIN)
    place = {class_id: number for number, class_id in enumerate(classes)}
    columns = ("sample_id", "file", "prompt", "model", "fault", "detail", "shard", "duplicate_of")
    return {
        "reasons": [_reason(reason) for reason in reasons],
        "sources": sources,
        "classes": [{"id": i, "name": space.by_id[i].name, "colour": css[i]} for i in classes],
        "scores": _scores(rows),
        "stated": _stated(rows),
        "rows": {
            **{name: rows[name].to_list() for name in columns},
            "reason": [reasons.index(reason) for reason in rows["reason"]],
            "source": [None if source is None else sources.index(source) for source in rows["source"]],
            "classes": [[place[i] for i in ids or [] if i in place] for ids in rows["leaves_as"].to_list()],
            **{name: _numbers(rows[name]) for name in ("score", "threshold", "margin", *SCORES)},
            "near": [near.get(sample_id, []) for sample_id in rows["sample_id"]],
        },
    }


def _stated(rows: pl.DataFrame) -> dict[str, list[int]]:
    """Classes in the masks of relabelled samples as they were ingested; of the others `classes` says so."""
    return dict(rows.filter(pl.col("relabel_to").is_not_null()).select("sample_id", "class_ids").iter_rows())


def verdict_words(verdicts: Verdicts) -> dict[str, dict[str, Any]]:
    """Verdicts by sample as the page shows them: the word, what a relabelled class is, note and reason, who and when,
    and a few `words` for a card.
    """
    deeds = {"keep": "kept by a person", "reject": "rejected by a person", "none": "has a note"}
    found = {}
    for sample_id, verdict in verdicts.items():
        words = deeds.get(verdict.verdict) or f"relabelled to {verdict.to_class}"
        told = verdict.model_dump(mode="json", exclude={"sample_id", "at", "decided"})
        found[sample_id] = {**told, "at": f"{verdict.at:%Y-%m-%d %H:%M} UTC", "words": words}
    return found


def as_json(data: dict[str, Any]) -> str:
    """JSON that may stand in a script element: `<`, `>`, `&` and `'` are escaped, whatever names hold."""
    return str(htmlsafe_json_dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def neighbours(run_dir: str, ids: set[str]) -> dict[str, list[tuple[str, float, str]]]:
    """Samples that look most like each of `ids`: id, cosine, and the test set that holds it ("" = the run itself)."""
    path = f"{run_dir}/neighbours.parquet"
    if read_footer(path) is None:
        return {}
    pairs = pl.DataFrame(read_shard(path, NEIGHBOUR).replace_schema_metadata(None))
    forth = pairs.select(one="sample_id", other="other_id", cosine="similarity", place="other_set")
    back = pairs.filter(pl.col("other_set") == "self")
    both = pl.concat([forth, back.select(one="other_id", other="sample_id", cosine="similarity", place="other_set")])
    best = both.sort(["cosine", "other"], descending=[True, False]).group_by("one", maintain_order=True).head(NEAR)
    found: dict[str, list[tuple[str, float, str]]] = {}
    for one, other, cosine, place in best.filter(pl.col("one").is_in(sorted(ids))).iter_rows():
        found.setdefault(one, []).append((other, round(cosine, 3), "" if place == "self" else place))
    return found


def _reason(reason: str) -> dict[str, str]:
    said = {"name": reason, "label": label(reason), "explain": explain(reason)}
    return {**said, "colour": reason_colour(reason), "pattern": reason_pattern(reason)}


def _scores(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Scores that were taken: title, words, the threshold that was in force and on which side of it samples stay."""
    cuts = thresholds(rows)
    found = []
    for column, (title, words) in SCORES.items():
        if rows[column].null_count() == rows.height or (column == "pcs" and same_scores(rows)):
            continue
        gates = [reason.value for reason in GATES.get(column, ())]
        own = [cut for cut in cuts.get(column, []) if cut.reason in gates]
        limit = own[0].label if own else ""
        said = {"column": column, "title": title, "words": words, "limit": limit, "side": SIDES.get(column, "")}
        found.append({**said, "high_is_bad": column in HIGHEST})
    return found


def _numbers(column: pl.Series) -> list[float | None]:
    """Rounded to what a person reads; what is no number is null, as in JSON."""
    numbers = column.cast(pl.Float64).round(5)
    return pl.select(pl.when(numbers.is_finite()).then(numbers)).to_series().to_list()
