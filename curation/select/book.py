"""The verdicts of a selection: which rows are decided, by whom, and what is to be said of them.

Ten million sentences take more room and time than the scores that they speak of. So a verdict is two small numbers in
its row (`reason`, and `why`, the entry of the book); its words are made when decisions are written, some rows at a
time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from maskmill.data_contracts import Reason

OPEN = pl.col("reason").is_null()  # not decided yet
WORDS = ["row", "detail", "duplicate_of"]


@dataclass(frozen=True)
class Entry:
    """How the words of a verdict are made: expressions over a row's columns and those of `beside` (by `row`)."""

    detail: pl.Expr
    duplicate_of: pl.Expr
    beside: pl.DataFrame


@dataclass
class Book:
    """`lasting`: columns that rows have, unchanged, from the first gate to the end; what else words speak of is noted
    with the verdict.
    """

    lasting: Sequence[str]
    entries: list[Entry] = field(default_factory=list)

    def reject(
        self,
        rows: pl.DataFrame,
        condition: pl.Expr,
        reason: Reason | pl.Expr,
        *,
        score: pl.Expr | None = None,
        threshold: float | pl.Expr | None = None,
        detail: str | pl.Expr | None = None,
        duplicate_of: pl.Expr | None = None,
    ) -> pl.DataFrame:
        """Write a verdict into the still open rows that meet `condition`."""
        hit = rows.select(OPEN & condition.fill_null(False)).to_series()
        limit = pl.lit(threshold, dtype=pl.Float32) if isinstance(threshold, float) else threshold
        return self.decide(rows, hit, reason, score, limit, _text(detail), _text(duplicate_of))

    def decide(
        self,
        rows: pl.DataFrame,
        hit: pl.Series,
        reason: Reason | pl.Expr,
        score: pl.Expr | None,
        threshold: pl.Expr | None,
        detail: pl.Expr,
        duplicate_of: pl.Expr,
    ) -> pl.DataFrame:
        """Write a verdict into the rows where `hit` is true, whatever was said of them before."""
        if not hit.any():
            return rows
        named = {*detail.meta.root_names(), *duplicate_of.meta.root_names()} - set(self.lasting)
        self.entries.append(Entry(detail, duplicate_of, rows.filter(hit).select("row", *sorted(named - {"row"}))))
        said = pl.lit(reason.value) if isinstance(reason, Reason) else reason
        none = pl.lit(None, dtype=pl.Float32)
        values = {
            "reason": said.cast(rows.schema["reason"]),
            "why": pl.lit(len(self.entries), dtype=pl.UInt8),
            "score": none if score is None else score.cast(pl.Float32),
            "threshold": none if threshold is None else threshold.cast(pl.Float32),
        }
        return rows.with_columns(
            pl.when(hit).then(value).otherwise(pl.col(name)).alias(name) for name, value in values.items()
        )

    def words(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`WORDS` of the decided ones among `rows`."""
        found = [
            self._words(rows.filter(pl.col("why") == number), entry)
            for number, entry in enumerate(self.entries, start=1)
        ]
        empty = pl.DataFrame(schema={"row": rows.schema["row"], "detail": pl.String, "duplicate_of": pl.String})
        return pl.concat([empty, *(one for one in found if not one.is_empty())])

    def _words(self, rows: pl.DataFrame, entry: Entry) -> pl.DataFrame:
        if rows.is_empty():
            return rows.select("row")
        joined = rows.drop(c for c in entry.beside.columns if c != "row" and c in rows.columns)
        if entry.beside.width > 1:
            beside = entry.beside.filter(pl.col("row").is_between(rows["row"].min(), rows["row"].max()))
            joined = joined.join(beside, on="row", how="left", maintain_order="left")
        return joined.select("row", detail=entry.detail, duplicate_of=entry.duplicate_of)


def _text(words: str | pl.Expr | None) -> pl.Expr:
    return words if isinstance(words, pl.Expr) else pl.lit(words, dtype=pl.String)


def spread(rows: pl.DataFrame, at: pl.DataFrame) -> pl.DataFrame:
    """`rows` (in order of `row` = 0, 1, …) with the further columns of `at` in the rows that it names, else null."""
    index = np.full(len(rows), -1, np.int32)
    index[at["row"].to_numpy()] = np.arange(len(at))
    places = pl.Series("at", index)
    known = pl.select(pl.when(places >= 0).then(places)).to_series()
    values = at.drop("row").select(pl.all().gather(known))
    return rows.hstack(values)


def parts(rows: pl.DataFrame, size: int) -> Iterator[pl.DataFrame]:
    """`rows`, so many at a time."""
    for start in range(0, rows.height, size):
        yield rows.slice(start, size)
