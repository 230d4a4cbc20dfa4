"""What people said in review: their word decides, whatever scores say."""

from dataclasses import dataclass

import polars as pl

from maskmill.curation.dedup.clusters import DROPPED
from maskmill.curation.select.book import Book, spread
from maskmill.curation.select.config import SelectConfig
from maskmill.curation.select.twins import Twins
from maskmill.data_contracts import Reason

STAGE = "review"
COLUMNS = {
    "sample_id": pl.String,
    "verdict": pl.String,
    "from_class_id": pl.Int32,
    "to_class_id": pl.Int32,
    "words": pl.String,
}
"""What selection reads of a verdict: `words` say who, when and why."""

DEEDS = {"keep": "kept", "reject": "rejected", "relabel": "kept and relabelled"}


@dataclass(frozen=True)
class Judged:
    """Rows with the verdicts in them, and the rows that people kept."""

    rows: pl.DataFrame
    kept: pl.Series


def without_verdicts(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows on which nobody said anything."""
    nothing = {name: pl.lit(None, dtype=COLUMNS[name]) for name in ("verdict", "from_class_id", "to_class_id")}
    return rows.with_columns(**nothing)


def honour(rows: pl.DataFrame, book: Book, verdicts: pl.DataFrame) -> Judged:
    """Write the verdicts (`COLUMNS`, each sample once) over what the gates said; the detail says what that was.

    It is done after the gates, so that thresholds which are read off the scores stay those of all samples, and before
    near-duplicates and ranks, which count what stays. Of a repeated sample the first row is judged.
    """
    decisive = verdicts.filter(pl.col("verdict") != "none").select(*COLUMNS)
    named = rows.select("row", "sample_id").join(decisive, on="sample_id").drop("sample_id")
    scored = pl.format(" (scores said {})", pl.col("reason").cast(pl.String).str.replace_all("_", " "))
    before = pl.when(pl.col("reason").is_not_null()).then(scored).otherwise(pl.lit(""))
    said = spread(rows, named).with_columns(before=before)
    again = (pl.col("reason") == Reason.DUPLICATE_ID.value).fill_null(False)
    hit = said.select(pl.col("verdict").is_not_null() & ~again).to_series()
    rejected = pl.col("verdict") == "reject"
    reason = pl.when(rejected).then(pl.lit(Reason.REJECTED_IN_REVIEW.value)).otherwise(pl.lit(Reason.KEPT.value))
    detail = pl.format("{} {}{}", pl.col("verdict").replace_strict(DEEDS, default=None), "words", "before")
    judged = book.decide(said, hit, reason, None, None, detail, pl.lit(None, dtype=pl.String)).with_columns(
        pl.when(hit).then(name).alias(name) for name in ("verdict", "from_class_id", "to_class_id")
    )
    kept = judged.filter(pl.col("verdict").is_in(["keep", "relabel"]))["row"]
    return Judged(judged.drop("words", "before"), kept)


def make_way(judged: Judged, book: Book, pairs: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """Near-duplicates of what people kept are near-duplicates of a kept sample, however good they are."""
    if judged.kept.is_empty():
        return judged.rows
    near = Twins.of(judged.rows, pairs)
    found = near.of_kept(judged.rows, pl.DataFrame(schema=DROPPED), judged.kept)
    return near.reject_duplicates(judged.rows, book, found, config)


def stage_of(usual: str) -> pl.Expr:
    """The stage that decided on a row."""
    return pl.when(pl.col("verdict").is_not_null()).then(pl.lit(STAGE)).otherwise(pl.lit(usual)).alias("stage")
