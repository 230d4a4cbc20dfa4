"""Near-duplicates: of samples that are alike the best stays, and what goes names a sample that is kept."""

import polars as pl

from maskmill.curation.dedup import keep_best
from maskmill.curation.dedup.clusters import DROPPED
from maskmill.curation.select.config import SelectConfig
from maskmill.curation.select.gates import OPEN, at_least, join_rejects, reject
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
    clips = rows.select("sample_id", "clip").drop_nulls().unique("sample_id")
    both = near.join(clips, on="sample_id", how="left", maintain_order="left").join(
        clips.rename({"sample_id": "other_id", "clip": "other_clip"}), on="other_id", how="left", maintain_order="left"
    )
    return both.filter((pl.col("clip") == pl.col("other_clip")).fill_null(False).not_()).select(near.columns)


def better_samples(rows: pl.DataFrame, pairs: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """For each open sample that is to make way: the better one (by ASF, then image score, then id), as `keep_best`
    names it.
    """
    best_first = rows.filter(OPEN).sort(
        ["asf", "image_score", "sample_id"], descending=[True, True, False], nulls_last=True
    )
    return keep_best(pairs, best_first["sample_id"], chains=config.near_duplicates == "cluster")


def of_kept(rows: pl.DataFrame, pairs: pl.DataFrame, better: pl.DataFrame, kept: pl.Series) -> pl.DataFrame:
    """Near-duplicates of `kept` samples, as `keep_best` names them: those that make way for one, and those that a floor
    or a quota would turn away anyway. The better sample is named if it is kept, else the most similar kept one.
    """
    sides = [("sample_id", "other_id"), ("other_id", "sample_id")]
    both = pl.concat(
        [pairs.select(sample_id=a, other_id=b, similarity="similarity", other_set="other_set") for a, b in sides]
    )
    beside = both.cast(DROPPED).sort(["similarity", "other_id"], descending=[True, False])  # type: ignore[arg-type]
    held = rows.filter(OPEN | LOW_ASF).filter(~pl.col("sample_id").is_in(kept.implode()))
    stays = pl.DataFrame({"other_id": kept}, schema={"other_id": pl.String})
    return (
        pl.concat([better, beside])
        .join(stays, on="other_id", how="semi", maintain_order="left")
        .join(held, on="sample_id", how="semi", maintain_order="left")
        .unique("sample_id", keep="first", maintain_order=True)
    )


def reject_duplicates(rows: pl.DataFrame, found: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """The verdict `near_duplicate` for the samples of `found`, in place of `low_asf` where that was said."""
    said = LOW_ASF & pl.col("sample_id").is_in(found["sample_id"].implode())
    columns = ("reason", "detail", "score", "threshold")
    rows = rows.with_columns(pl.when(said).then(None).otherwise(pl.col(c)).alias(c) for c in columns)
    detail = pl.lit("a kept sample shows the same")
    return join_rejects(rows, found, Reason.NEAR_DUPLICATE, config.duplicate_similarity, detail)


def reject_with_the_better(rows: pl.DataFrame, better: pl.DataFrame) -> pl.DataFrame:
    """Samples that made way for a better one which fell below its quota: they fall with it."""
    near = rows.join(better.select("sample_id", better="other_id"), on="sample_id", how="left", maintain_order="left")
    detail = pl.format("not better than the near-duplicate {}, which is below its quota", "better")
    return reject(near, pl.col("better").is_not_null(), Reason.BELOW_QUOTA, score=pl.col("asf"), detail=detail).drop(
        "better"
    )
