"""Ranking: which of the samples that passed all gates stay, group by group. Ties go to the smaller sample_id.

Source: H. Tang et al., "A Training-Free Synthetic Data Selection Method for Semantic Segmentation" (SDS), AAAI 2025:
samples are ranked by pooled IoU among samples with equally many classes. Ranking by class is ours.
"""

import math

import polars as pl

from maskmill.curation.select.config import SelectConfig

VERDICT = ["row", "stays", "rank_score", "cut", "place"]


def share_to_keep(config: SelectConfig, total: int, survivors: int) -> float:
    """rho as configured, or the share of `survivors` that leaves keep_fraction * `total` samples, within [0, 1]."""
    if config.rho is not None:
        return config.rho
    return min(1.0, config.keep_fraction * total / survivors) if survivors else 0.0


def rank(survivors: pl.DataFrame, config: SelectConfig, rho: float) -> pl.DataFrame:
    """Verdicts on `survivors`, by `row`: `stays`, the score that ranked it, its group's cut, and its place in words.

    `survivors` are sorted by sample_id, each once; every sort below is stable, so ties stay in that order.
    """
    return _by_class(survivors, config, rho) if config.group_by == "class" else _by_count(survivors, config, rho)


def _by_count(survivors: pl.DataFrame, config: SelectConfig, rho: float) -> pl.DataFrame:
    """Groups of equally many classes; each keeps ceil(rho * size), or min_keep if that is more."""
    rows = survivors.select("row", group="classes", rank_score=config.rank_by)
    return _cut(rows, config, rho).select(VERDICT)


def _by_class(survivors: pl.DataFrame, config: SelectConfig, rho: float) -> pl.DataFrame:
    """Groups of samples that show a class, ranked by that class' IoU; a sample stays if any of its classes takes it.

    The reported group is the one in which the sample stands best against the cut.
    """
    each = survivors.select("row", "per_class", own=config.rank_by).explode("per_class").unnest("per_class")
    score = pl.col("iou") if config.rank_by == "asf" else pl.col("own")
    masked = each.select("row", group="class_id", rank_score=score)
    bare = survivors.filter(pl.col("per_class").is_null()).explode("label_ids")  # photos without masks
    rows = pl.concat([masked, bare.select("row", group="label_ids", rank_score=config.rank_by)])
    rows = rows.filter(pl.col("group").is_not_null()).sort("row", maintain_order=True)
    ranked = _cut(rows, config, rho).sort(["row", "margin", "group"])
    best = ranked.unique("row", keep="first", maintain_order=True)
    verdicts = survivors.select("row").join(best.select(VERDICT), on="row", how="left")
    return verdicts.with_columns(
        pl.col("stays").fill_null(False), pl.col("place").fill_null("scored for no class of its mask")
    )


def _cut(rows: pl.DataFrame, config: SelectConfig, rho: float) -> pl.DataFrame:
    """Rank (row, group, rank_score) inside groups and cut each at its quota."""
    sizes = rows.group_by("group").len("size").sort("group")
    limits = [_limit(config, rho, group, size) for group, size in sizes.iter_rows()]
    word = "class" if config.group_by == "class" else "number of classes"
    ranked = (
        rows.join(sizes.with_columns(pl.Series("limit", limits, dtype=pl.Int64)), on="group", maintain_order="left")
        .sort(["group", "rank_score"], descending=[False, True], nulls_last=True, maintain_order=True)
        .with_columns(rank=pl.int_range(1, pl.len() + 1).over("group"))
    )
    cuts = ranked.filter(pl.col("rank") == pl.col("limit")).select("group", cut="rank_score")
    words = "rank {} of {} with " + word + " {}; {} stay (rho {})"
    return ranked.join(cuts, on="group", how="left", maintain_order="left").with_columns(
        stays=pl.col("rank") <= pl.col("limit"),
        margin=pl.col("rank") - pl.col("limit"),
        place=pl.format(words, "rank", "size", "group", "limit", pl.lit(f"{rho:.4g}")),
    )


def _limit(config: SelectConfig, rho: float, group: int, size: int) -> int:
    """How many of a group of `size` stay. Rounding before ceil keeps 0.07 * 100 = 7.000000000000001 at 7."""
    share = math.ceil(round(rho * size, 9))
    if config.group_by == "class":
        share = config.quotas.get(group, share)
        share = share if config.max_per_class is None else min(share, config.max_per_class)
    return min(size, max(config.min_keep, share))
