"""Near-duplicates: of samples that are alike the best stays, and what goes names a sample that is kept."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from maskmill.curation.dedup import keep_best
from maskmill.curation.dedup.clusters import DROPPED
from maskmill.curation.select.book import OPEN, Book, spread
from maskmill.curation.select.config import SelectConfig
from maskmill.curation.select.gates import at_least, reject_at
from maskmill.data_contracts import Reason

LOW_ASF = pl.col("reason") == Reason.LOW_ASF.value


def pairs_that_count(rows: pl.DataFrame, neighbours: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """Pairs of one set (sample_id, other_id, similarity) that make near-duplicates.

    Frames of one clip and slices of one volume are alike, and wanted: with `best` a pair inside one `clip` (a column of
    `rows`, where it is known) does not count. `cluster` thins out these, too.
    """
    if config.near_duplicates == "keep":
        return neighbours.clear()
    near = neighbours.filter((pl.col("other_set") == "self") & at_least("similarity", config.duplicate_similarity))
    if config.near_duplicates == "cluster" or "clip" not in rows.columns:
        return near
    clips = in_pairs(rows.select("sample_id", "clip").drop_nulls(), near).unique("sample_id")
    both = near.join(clips, on="sample_id", how="left", maintain_order="left").join(
        clips.rename({"sample_id": "other_id", "clip": "other_clip"}), on="other_id", how="left", maintain_order="left"
    )
    return both.filter((pl.col("clip") == pl.col("other_clip")).fill_null(False).not_()).select(near.columns)


def in_pairs(rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Those rows whose sample is in a pair: few, however many there are."""
    named = pl.concat([pairs["sample_id"], pairs["other_id"].rename("sample_id")]).unique()
    return rows.join(named.to_frame(), on="sample_id", how="semi", maintain_order="left")


@dataclass(frozen=True)
class Twins:
    """The pairs that count, and where their samples stand: (row, sample_id)."""

    pairs: pl.DataFrame
    places: pl.DataFrame

    @classmethod
    def of(cls, rows: pl.DataFrame, pairs: pl.DataFrame) -> "Twins":
        return cls(pairs, in_pairs(rows.select("row", "sample_id"), pairs))

    def now(self, rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
        """The paired rows as they stand: row, sample_id and `columns`."""
        return self.places.hstack(rows.select(columns)[self.places["row"]])

    def rows_of(self, found: pl.DataFrame) -> pl.DataFrame:
        """`found` by row in place of sample_id."""
        return self.places.join(found, on="sample_id").drop("sample_id")

    def better(self, rows: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
        """For each open sample that is to make way: the better one (by ASF, then image score, then id), as `keep_best`
        names it.
        """
        best_first = (
            self.now(rows, "reason", "asf", "image_score")
            .filter(OPEN)
            .sort(["asf", "image_score", "sample_id"], descending=[True, True, False], nulls_last=True)
        )
        return keep_best(self.pairs, best_first["sample_id"], chains=config.near_duplicates == "cluster")

    def of_kept(self, rows: pl.DataFrame, better: pl.DataFrame, kept: pl.Series) -> pl.DataFrame:
        """Near-duplicates of `kept` samples (rows), as `keep_best` names them: those that make way for one, and those
        that a floor or a quota would turn away anyway. The better sample is named if it is kept, else the most similar
        kept one.
        """
        there = self.pairs.select("sample_id", "other_id", "similarity", "other_set")
        back = there.select("similarity", "other_set", sample_id="other_id", other_id="sample_id")
        both = pl.concat([there, back.select(there.columns)]).cast(DROPPED)  # type: ignore[arg-type]
        beside = both.sort(["similarity", "other_id"], descending=[True, False])
        now = self.now(rows, "reason").with_columns(kept=_at(kept, rows.height)[self.places["row"].to_numpy()])
        stays = now.filter("kept").select(other_id="sample_id")
        held = now.filter((OPEN | LOW_ASF) & ~pl.col("kept"))
        return (
            pl.concat([better, beside])
            .join(stays, on="other_id", how="semi", maintain_order="left")
            .join(held, on="sample_id", how="semi", maintain_order="left")
            .unique("sample_id", keep="first", maintain_order=True)
        )

    def reject_duplicates(
        self, rows: pl.DataFrame, book: Book, found: pl.DataFrame, config: SelectConfig
    ) -> pl.DataFrame:
        """The verdict `near_duplicate` for the samples of `found`, in place of `low_asf` where that was said."""
        if found.is_empty():
            return rows
        at = self.rows_of(found)
        said = LOW_ASF & pl.Series(_at(at["row"], rows.height))
        rows = rows.with_columns(pl.when(said).then(None).otherwise(pl.col(c)).alias(c) for c in ("reason", "why"))
        detail = pl.lit("a kept sample shows the same")
        return reject_at(rows, book, at, Reason.NEAR_DUPLICATE, config.duplicate_similarity, detail)

    def reject_with_the_better(self, rows: pl.DataFrame, book: Book, better: pl.DataFrame) -> pl.DataFrame:
        """Samples that made way for a better one which fell below its quota: they fall with it."""
        if better.is_empty():
            return rows
        near = spread(rows, self.rows_of(better.select("sample_id", better="other_id")))
        detail = pl.format("not better than the near-duplicate {}, which is below its quota", "better")
        fallen = pl.col("better").is_not_null()
        return book.reject(near, fallen, Reason.BELOW_QUOTA, score=pl.col("asf"), detail=detail).drop("better")

    def without(self, rows: pl.DataFrame, better: pl.DataFrame) -> pl.Expr:
        """Which rows make way for no better sample."""
        return pl.lit(pl.Series(~_at(self.rows_of(better)["row"], rows.height)))


def _at(places: pl.Series, size: int) -> NDArray[np.bool_]:
    """True at these rows."""
    out = np.zeros(size, np.bool_)
    out[places.to_numpy()] = True
    return out
