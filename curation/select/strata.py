"""Scores corrected by strata: what a score says of a scene or a style as a whole is divided out before anything is
decided.

A score that follows scenes takes the samples of some scenes and leaves those of others, faults or not, and the half
that it keeps teaches less. So every score is divided by a factor of its stratum: where the samples of that stratum lie,
each relative to what is typical of its classes, drawn towards 1 where they are few (n samples have n / (n + 4) of a
say). Strata of several kinds (scene, style) are corrected one after the other.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from maskmill.curation.select.typical import relative, shrunk

SHARE = 0.35  # of what is typical: values below are faults, and say nothing of where a stratum lies
SCORES = ("pcs", "image_score", "asf")


def column_of(stratum: str) -> str:
    """The column of `rows` that names the stratum of a kind."""
    return f"stratum_{stratum}"


def correct(rows: pl.DataFrame, strata: Sequence[str]) -> pl.DataFrame:
    """`rows` with `pcs`, `image_score`, `asf` and `per_class` divided by the factors of their strata.

    Needs `row`, `label_ids`, the scores, and for each of `strata` its column (text; null = in no stratum). A kind
    whose column is not there, or that has one stratum only, corrects nothing.
    """
    for stratum in strata:
        column = column_of(stratum)
        if column not in rows.columns or rows[column].n_unique() < 2:
            continue
        for score in SCORES:
            rows = _divided(rows, score, column)
    return rows


def factors(rows: pl.DataFrame, score: str, column: str) -> dict[str, float]:
    """Factor of every stratum, for one score; empty where no score is above chance."""
    placed = rows.filter(pl.col(score).is_not_null() & pl.col(column).is_not_null())
    ratios = relative(placed, score, SHARE)
    if ratios is None:
        return {}
    groups = pl.DataFrame({"stratum": placed[column], "ratio": ratios}).group_by("stratum").agg("ratio")
    return {name: shrunk(np.asarray(found), SHARE, 1.0) for name, found in groups.sort("stratum").iter_rows()}


def _divided(rows: pl.DataFrame, score: str, column: str) -> pl.DataFrame:
    found = factors(rows, score, column)
    table = pl.DataFrame(
        {column: list(found), "factor": list(found.values())}, {column: pl.String, "factor": pl.Float64}
    )
    joined = rows.join(table, on=column, how="left", maintain_order="left").with_columns(
        pl.col("factor").fill_null(1.0)
    )
    if score == "asf" and "per_class" in rows.columns:
        joined = _divided_classes(joined)
    return joined.with_columns((pl.col(score) / pl.col("factor")).cast(pl.Float32)).drop("factor")


def _divided_classes(rows: pl.DataFrame) -> pl.DataFrame:
    """`per_class` divided by `factor`, class by class."""
    each = rows.select("row", "factor", "per_class").filter(pl.col("per_class").list.len() > 0)
    parts = each.explode("per_class").unnest("per_class")
    iou = (pl.col("iou") / pl.col("factor")).cast(pl.Float32)
    lists = parts.group_by("row", maintain_order=True).agg(found=pl.struct("class_id", iou.alias("iou")))
    joined = rows.join(lists, on="row", how="left", maintain_order="left")
    return joined.with_columns(per_class=pl.coalesce("found", "per_class")).drop("found")
