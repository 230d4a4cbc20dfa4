"""Gates: the reasons for which a sample is turned away on its own account, in order; the first that applies is
recorded.
"""

import polars as pl

from maskmill.curation.select.calibrate import calibrated_on, resolve
from maskmill.curation.select.company import LEAD
from maskmill.curation.select.config import Calibrated, SelectConfig, Threshold
from maskmill.curation.select.typical import typical_cuts
from maskmill.data_contracts import Reason

OPEN = pl.col("reason").is_null()  # not decided yet


class SelectionError(ValueError):
    """The stored scores cannot answer what the config asks; says what to change or to run again."""


def reject(
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
    hit = OPEN & condition.fill_null(False)

    def put(column: str, value: pl.Expr | None) -> pl.Expr:
        return pl.col(column) if value is None else pl.when(hit).then(value).otherwise(pl.col(column)).alias(column)

    return rows.with_columns(
        put("reason", pl.lit(reason.value) if isinstance(reason, Reason) else reason),
        put("score", score),
        put("threshold", pl.lit(threshold, dtype=pl.Float32) if isinstance(threshold, float) else threshold),
        put("detail", pl.lit(detail) if isinstance(detail, str) else detail),
        put("duplicate_of", duplicate_of),
    )


def reject_repeated_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """A sample_id that several shards hold stays in the first of them; `rows` are sorted by (sample_id, shard)."""
    again = pl.col("sample_id") == pl.col("sample_id").shift(1)
    if not rows.select(again.any()).item():
        return rows
    first = pl.col("shard").first().over("sample_id").fill_null("this shard")
    detail = pl.format("the same sample is in {}", first)
    return reject(rows, again, Reason.DUPLICATE_ID, detail=detail, duplicate_of=pl.col("sample_id"))


def keep_negatives(rows: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """Samples whose mask says that nothing is there have no score to be held against: all stay, where asked for."""
    if config.negatives == "drop":
        return rows
    negative = (pl.col("score_reason") == Reason.NO_CLASSES.value) & (pl.col("n_classes") == 0)
    return reject(rows, negative, Reason.KEPT, detail="its mask shows no object, and select.negatives is keep")


def reject_unscored(rows: pl.DataFrame) -> pl.DataFrame:
    """Samples that scoring gave up on keep its reason. Samples that it only gated (no reason, no ASF) pass here."""
    gave_up = pl.col("score_reason").is_not_null() & (pl.col("score_reason") != Reason.NOT_SCORED.value)
    return reject(rows, gave_up, pl.col("score_reason"), detail=pl.col("score_detail"))


def reject_leaks(rows: pl.DataFrame, neighbours: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """Samples that a test set holds too; `duplicate_of` names the most similar test sample."""
    if config.leaks == "keep":
        return rows
    near = neighbours.filter((pl.col("other_set") != "self") & at_least("similarity", config.leak_similarity))
    worst = near.sort(["similarity", "other_set", "other_id"], descending=[True, False, False]).unique(
        "sample_id", keep="first", maintain_order=True
    )
    return join_rejects(rows, worst, Reason.LEAKS_INTO_TEST, config.leak_similarity, pl.format("in {}", "other_set"))


def reject_by_image(rows: pl.DataFrame, config: SelectConfig) -> tuple[pl.DataFrame, dict[str, float]]:
    """Entropy, PCS, image score and label swap. Returns rows and the thresholds in force."""
    used: dict[str, float] = {}
    if config.max_entropy is not None:
        used["max_entropy"] = limit = resolve(config.max_entropy, []) or 0.0
        detail = f"h_orig must be below {config.max_entropy:g}"
        too_high = pl.col("h_orig") >= pl.lit(limit, dtype=pl.Float32)
        rows = reject(rows, too_high, Reason.HIGH_ENTROPY, score=pl.col("h_orig"), threshold=limit, detail=detail)
    for column, asked, reason in (
        ("pcs", config.pcs_tau, Reason.LOW_PCS),
        ("image_score", config.image_score_tau, Reason.LOW_IMAGE_SCORE),
    ):
        if isinstance(asked, Calibrated) and asked.method == "typical":
            rows = reject(rows, pl.col(column).is_null(), Reason.NOT_SCORED, detail=f"no {column}")
            rows, each = _reject_below_typical(rows, column, asked, reason)
            used |= {f"{column}_tau of class {class_id}": tau for class_id, tau in each.items()}
            continue
        if config.calibrate_by == "class" and isinstance(asked, Calibrated):
            rows, each = _reject_not_above_in_class(rows, column, asked, reason)
            used |= {f"{column}_tau of class {class_id}": tau for class_id, tau in each.items()}
            continue
        rows, tau = _reject_not_above(rows, column, asked, reason)
        if tau is not None:
            used[f"{column}_tau"] = tau
    if config.swap == "drop":
        detail_swap = pl.format("CLIP prefers absent class {}", "swap_class_id")
        rows = reject(rows, pl.col("swap_class_id").is_not_null(), Reason.LABEL_SWAP, detail=detail_swap)
        rows = _reject_out_of_company(rows)
    return rows, used


def _reject_out_of_company(rows: pl.DataFrame) -> pl.DataFrame:
    """Samples whose image lies among those of another class and not among its own: see `company`."""
    if "rival" not in rows.columns:
        return rows
    lead = pl.col("company") - pl.col("rival")
    detail = pl.format(
        "its image is like those of class {} (cosine {}), not like those of its own class ({})",
        "rival_class_id",
        pl.col("rival").round(2),
        pl.col("company").round(2),
    )
    return reject(rows, lead < -LEAD, Reason.LABEL_SWAP, score=lead, threshold=-LEAD, detail=detail)


def _reject_below_typical(
    rows: pl.DataFrame, column: str, asked: Calibrated, reason: Reason
) -> tuple[pl.DataFrame, dict[int, float]]:
    """Samples that score less than a share of what is typical of their class and clip: see `typical_cuts`."""
    found = typical_cuts(rows.filter(OPEN), column, asked)
    if found is None:
        return rows, {}
    joined = rows.join(found.cuts, on="row", how="left", maintain_order="left")
    value, cut = pl.col(column), pl.col("cut")
    detail = pl.format(
        "{} must reach {}, {} of what is typical of its kind ({})",
        pl.lit(column),
        cut.round(4),
        pl.lit(f"{found.share:.2f}"),
        pl.col("typical").round(4),
    )
    joined = reject(joined, value < cut, reason, score=value, threshold=cut, detail=detail)
    return joined.drop("cut", "typical"), found.by_class


def _reject_not_above(
    rows: pl.DataFrame, column: str, asked: Threshold, reason: Reason
) -> tuple[pl.DataFrame, float | None]:
    tau = resolve(asked, rows.filter(OPEN)[column].drop_nulls().to_numpy())
    if tau is None:
        return rows, None
    value = pl.col(column)
    rows = reject(rows, value.is_null(), Reason.NOT_SCORED, detail=f"no {column}")
    detail = f"{column} must be above {tau:g}{calibrated_on(asked)}"
    fails = value <= pl.lit(tau, dtype=pl.Float32)
    return reject(rows, fails, reason, score=value, threshold=tau, detail=detail), tau


def _reject_not_above_in_class(
    rows: pl.DataFrame, column: str, asked: Calibrated, reason: Reason
) -> tuple[pl.DataFrame, dict[int, float]]:
    """One threshold a class, read off the open samples that are said to show it: CLIP knows some classes better than
    others, so one threshold for all turns away the classes that it knows least. A sample fails if it does in each of
    its classes; the lowest of their thresholds is what it is held against.
    """
    rows = reject(rows, pl.col(column).is_null(), Reason.NOT_SCORED, detail=f"no {column}")
    each = rows.filter(OPEN).select("label_ids", column).explode("label_ids").drop_nulls()
    found = {
        int(class_id): tau
        for class_id in each["label_ids"].unique().sort()
        if (tau := resolve(asked, each.filter(pl.col("label_ids") == class_id)[column].to_numpy())) is not None
    }
    table = pl.DataFrame(
        {"class_id": list(found), "tau": list(found.values())}, {"class_id": pl.Int64, "tau": pl.Float32}
    )
    lowest = (
        rows.select("row", class_id=pl.col("label_ids").cast(pl.List(pl.Int64)))
        .explode("class_id")
        .join(table, on="class_id", how="left")
        .group_by("row")
        .agg(tau=pl.when(pl.col("tau").null_count() == 0).then(pl.col("tau").min()))
    )
    rows = rows.join(lowest, on="row", how="left", maintain_order="left")
    fails = pl.col(column) <= pl.col("tau")
    detail = pl.format(
        "{} must be above {} ({}, of its class)", pl.lit(column), pl.col("tau").round(4), pl.lit(asked.method)
    )
    rows = reject(rows, fails, reason, score=pl.col(column), threshold=pl.col("tau"), detail=detail)
    return rows.drop("tau"), found


def check_scored(rows: pl.DataFrame, config: SelectConfig) -> None:
    """Raise if samples that pass the gates have no ASF although the config needs one: scoring had gated them.

    Where nothing is ranked, samples without ASF may also be photos without masks: these pass.

    Raises:
        SelectionError: with the lowest PCS and image score for which ASF is there.
    """
    if config.rank_by != "asf" and config.min_score is None and config.group_by != "class":
        return
    unscored = rows.filter(OPEN & pl.col("asf").is_null())
    scored = rows.filter(pl.col("asf").is_not_null())
    if unscored.is_empty() or not (_needs_asf(config) or _gated(unscored, scored)):
        return
    lows = {name: scored[name].drop_nulls().to_list() for name in ("pcs", "image_score")}
    lowest = ", ".join(f"{name} {min(values):.4g}" for name, values in lows.items() if values)
    raise SelectionError(
        f"{unscored.height} samples pass the gates of this selection but have no ASF, e.g. {unscored['sample_id'][0]} "
        f"(pcs {unscored['pcs'][0]}, image_score {unscored['image_score'][0]}): scoring left them out because they "
        f"fell below its own gate. ASF is there from {lowest or 'nowhere'} up. Raise pcs_tau or image_score_tau to "
        "that, or lower the gate in the score config and score again"
    )


def _needs_asf(config: SelectConfig) -> bool:
    """Whether a sample without ASF cannot be placed: some are to go by rank, or a floor is given as a number."""
    ranked = config.rho != 1 or bool(config.quotas) or config.max_per_class is not None
    return isinstance(config.min_score, float) or ranked


def _gated(unscored: pl.DataFrame, scored: pl.DataFrame) -> bool:
    """Whether the samples without ASF are those of the lowest image scores, as a gate in scoring leaves them."""
    highest, lowest = unscored["image_score"].drop_nulls().to_list(), scored["image_score"].drop_nulls().to_list()
    return bool(highest and lowest) and max(highest) < min(lowest)


def reject_low_asf(rows: pl.DataFrame, config: SelectConfig) -> tuple[pl.DataFrame, dict[str, float]]:
    """The floor under ASF. Returns rows and the thresholds in force."""
    if isinstance(config.min_score, Calibrated) and config.min_score.method == "typical":
        rows, each = _reject_below_typical(rows, "asf", config.min_score, Reason.LOW_ASF)
        return rows, {f"min_score of class {class_id}": cut for class_id, cut in each.items()}
    floor = resolve(config.min_score, rows.filter(OPEN)["asf"].drop_nulls().to_numpy())
    if floor is None:
        return rows, {}
    asf = pl.col("asf")
    detail = f"asf must be at least {floor:g}{calibrated_on(config.min_score)}"
    fails = asf < pl.lit(floor, dtype=pl.Float32)
    return reject(rows, fails, Reason.LOW_ASF, score=asf, threshold=floor, detail=detail), {"min_score": floor}


def at_least(column: str, threshold: float) -> pl.Expr:
    return pl.col(column) >= pl.lit(threshold, dtype=pl.Float32)


def join_rejects(
    rows: pl.DataFrame, found: pl.DataFrame, reason: Reason, threshold: float, detail: pl.Expr
) -> pl.DataFrame:
    """Reject the open rows named in `found` (sample_id, other_id, similarity, other_set)."""
    extra = found.select("sample_id", "other_id", "similarity", "other_set")
    joined = rows.join(extra, on="sample_id", how="left", maintain_order="left")
    similarity, other = pl.col("similarity"), pl.col("other_id")
    joined = reject(
        joined, other.is_not_null(), reason, score=similarity, threshold=threshold, detail=detail, duplicate_of=other
    )
    return joined.drop("other_id", "similarity", "other_set")
