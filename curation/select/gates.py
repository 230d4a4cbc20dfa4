"""Gates: the reasons for which a sample is turned away on its own account, in order; the first that applies is
recorded.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from maskmill.curation.select.book import OPEN, Book, spread
from maskmill.curation.select.calibrate import calibrated_on, resolve
from maskmill.curation.select.company import LEAD
from maskmill.curation.select.config import Calibrated, SelectConfig, Threshold
from maskmill.curation.select.typical import typical_cuts
from maskmill.data_contracts import Reason


class SelectionError(ValueError):
    """The stored scores cannot answer what the config asks; says what to change or to run again."""


def reject_repeated_ids(rows: pl.DataFrame, book: Book) -> pl.DataFrame:
    """A sample_id that several shards hold stays in the first of them; `rows` are sorted by (sample_id, shard)."""
    again = pl.col("sample_id") == pl.col("sample_id").shift(1)
    if not rows.select(again.any()).item():
        return rows
    first = pl.col("shard").first().over("sample_id")
    detail = pl.format("the same sample is in {}", pl.col("first").cast(pl.String).fill_null("this shard"))
    found = book.reject(
        rows.with_columns(first=first),
        again,
        Reason.DUPLICATE_ID,
        detail=detail,
        duplicate_of=pl.col("sample_id"),
    )
    return found.drop("first")


def keep_negatives(rows: pl.DataFrame, book: Book, config: SelectConfig) -> pl.DataFrame:
    """Samples whose mask says that nothing is there have no score to be held against: all stay, where asked for."""
    if config.negatives == "drop":
        return rows
    negative = (pl.col("score_reason") == Reason.NO_CLASSES.value) & (pl.col("n_classes") == 0)
    return book.reject(rows, negative, Reason.KEPT, detail="its mask shows no object, and select.negatives is keep")


def reject_unscored(rows: pl.DataFrame, book: Book) -> pl.DataFrame:
    """Samples that scoring gave up on keep its reason. Samples that it only gated (no reason, no ASF) pass here."""
    gave_up = pl.col("score_reason").is_not_null() & (pl.col("score_reason") != Reason.NOT_SCORED.value)
    return book.reject(rows, gave_up, pl.col("score_reason"), detail=pl.col("score_detail"))


def reject_leaks(rows: pl.DataFrame, book: Book, neighbours: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """Samples that a test set holds too; `duplicate_of` names the most similar test sample."""
    if config.leaks == "keep":
        return rows
    near = neighbours.filter((pl.col("other_set") != "self") & at_least("similarity", config.leak_similarity))
    worst = near.sort(["similarity", "other_set", "other_id"], descending=[True, False, False]).unique(
        "sample_id", keep="first", maintain_order=True
    )
    if worst.is_empty():
        return rows
    found = rows.select("row", "sample_id").join(worst, on="sample_id")
    detail = pl.format("in {}", "other_set")
    return reject_at(rows, book, found, Reason.LEAKS_INTO_TEST, config.leak_similarity, detail)


def reject_by_image(rows: pl.DataFrame, book: Book, config: SelectConfig) -> tuple[pl.DataFrame, dict[str, float]]:
    """Entropy, PCS, image score and label swap. Returns rows and the thresholds in force."""
    used: dict[str, float] = {}
    if config.max_entropy is not None:
        used["max_entropy"] = limit = resolve(config.max_entropy, []) or 0.0
        detail = f"h_orig must be below {config.max_entropy:g}"
        too_high = pl.col("h_orig") >= pl.lit(limit, dtype=pl.Float32)
        rows = book.reject(rows, too_high, Reason.HIGH_ENTROPY, score=pl.col("h_orig"), threshold=limit, detail=detail)
    for column, asked, reason in (
        ("pcs", config.pcs_tau, Reason.LOW_PCS),
        ("image_score", config.image_score_tau, Reason.LOW_IMAGE_SCORE),
    ):
        if isinstance(asked, Calibrated) and asked.method == "typical":
            rows = book.reject(rows, pl.col(column).is_null(), Reason.NOT_SCORED, detail=f"no {column}")
            rows, each = _reject_below_typical(rows, book, column, asked, reason)
            used |= {f"{column}_tau of class {class_id}": tau for class_id, tau in each.items()}
            continue
        if config.calibrate_by == "class" and isinstance(asked, Calibrated):
            rows, each = _reject_not_above_in_class(rows, book, column, asked, reason)
            used |= {f"{column}_tau of class {class_id}": tau for class_id, tau in each.items()}
            continue
        rows, tau = _reject_not_above(rows, book, column, asked, reason)
        if tau is not None:
            used[f"{column}_tau"] = tau
    if config.swap == "drop":
        detail_swap = pl.format("CLIP prefers absent class {}", "swap_class_id")
        rows = book.reject(rows, pl.col("swap_class_id").is_not_null(), Reason.LABEL_SWAP, detail=detail_swap)
        rows = _reject_out_of_company(rows, book)
    return rows, used


def _reject_out_of_company(rows: pl.DataFrame, book: Book) -> pl.DataFrame:
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
    return book.reject(rows, lead < -LEAD, Reason.LABEL_SWAP, score=lead, threshold=-LEAD, detail=detail)


def _reject_below_typical(
    rows: pl.DataFrame, book: Book, column: str, asked: Calibrated, reason: Reason
) -> tuple[pl.DataFrame, dict[int, float]]:
    """Samples that score less than a share of what is typical of their class and clip: see `typical_cuts`."""
    found = typical_cuts(rows.filter(OPEN), column, asked)
    if found is None:
        return rows, {}
    joined = spread(rows, found.cuts)
    value, cut = pl.col(column), pl.col("cut")
    detail = pl.format(
        "{} must reach {}, {} of what is typical of its kind ({})",
        pl.lit(column),
        cut.round(4),
        pl.lit(f"{found.share:.2f}"),
        pl.col("typical").round(4),
    )
    joined = book.reject(joined, value < cut, reason, score=value, threshold=cut, detail=detail)
    return joined.drop("cut", "typical"), found.by_class


def _reject_not_above(
    rows: pl.DataFrame, book: Book, column: str, asked: Threshold, reason: Reason
) -> tuple[pl.DataFrame, float | None]:
    tau = resolve(asked, _open(rows, column))
    if tau is None:
        return rows, None
    value = pl.col(column)
    rows = book.reject(rows, value.is_null(), Reason.NOT_SCORED, detail=f"no {column}")
    detail = f"{column} must be above {tau:g}{calibrated_on(asked)}"
    fails = value <= pl.lit(tau, dtype=pl.Float32)
    return book.reject(rows, fails, reason, score=value, threshold=tau, detail=detail), tau


def _reject_not_above_in_class(
    rows: pl.DataFrame, book: Book, column: str, asked: Calibrated, reason: Reason
) -> tuple[pl.DataFrame, dict[int, float]]:
    """One threshold a class, read off the open samples that are said to show it: CLIP knows some classes better than
    others, so one threshold for all turns away the classes that it knows least. A sample fails if it does in each of
    its classes; the lowest of their thresholds is what it is held against.
    """
    rows = book.reject(rows, pl.col(column).is_null(), Reason.NOT_SCORED, detail=f"no {column}")
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
    rows = spread(rows, lowest)
    fails = pl.col(column) <= pl.col("tau")
    detail = pl.format(
        "{} must be above {} ({}, of its class)", pl.lit(column), pl.col("tau").round(4), pl.lit(asked.method)
    )
    rows = book.reject(rows, fails, reason, score=pl.col(column), threshold=pl.col("tau"), detail=detail)
    return rows.drop("tau"), found


def _open(rows: pl.DataFrame, column: str) -> NDArray[np.float32]:
    """Scores of the samples that are not decided yet."""
    return rows.select(pl.col(column).filter(OPEN)).to_series().drop_nulls().to_numpy()


def check_scored(rows: pl.DataFrame, config: SelectConfig) -> None:
    """Raise if samples that pass the gates have no ASF although the config needs one: scoring had gated them.

    Where nothing is ranked, samples without ASF may also be photos without masks: these pass.

    Raises:
        SelectionError: with the lowest PCS and image score for which ASF is there.
    """
    if config.rank_by != "asf" and config.min_score is None and config.group_by != "class":
        return
    names = ("sample_id", "pcs", "image_score")
    unscored = rows.select(pl.col(*names).filter(OPEN & pl.col("asf").is_null()))
    scored = rows.select(pl.col(*names[1:]).filter(pl.col("asf").is_not_null()))
    if unscored.is_empty() or not (_needs_asf(config) or _gated(unscored, scored)):
        return
    lows: dict[str, float | None] = scored.min().to_dicts()[0]
    lowest = ", ".join(f"{name} {low:.4g}" for name, low in lows.items() if low is not None)
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
    gap = pl.select(unscored["image_score"].max() < pl.lit(scored["image_score"].min())).item()
    return gap is True


def reject_low_asf(rows: pl.DataFrame, book: Book, config: SelectConfig) -> tuple[pl.DataFrame, dict[str, float]]:
    """The floor under ASF. Returns rows and the thresholds in force."""
    if isinstance(config.min_score, Calibrated) and config.min_score.method == "typical":
        rows, each = _reject_below_typical(rows, book, "asf", config.min_score, Reason.LOW_ASF)
        return rows, {f"min_score of class {class_id}": cut for class_id, cut in each.items()}
    floor = resolve(config.min_score, _open(rows, "asf"))
    if floor is None:
        return rows, {}
    asf = pl.col("asf")
    detail = f"asf must be at least {floor:g}{calibrated_on(config.min_score)}"
    fails = asf < pl.lit(floor, dtype=pl.Float32)
    return book.reject(rows, fails, Reason.LOW_ASF, score=asf, threshold=floor, detail=detail), {"min_score": floor}


def at_least(column: str, threshold: float) -> pl.Expr:
    return pl.col(column) >= pl.lit(threshold, dtype=pl.Float32)


def reject_at(
    rows: pl.DataFrame, book: Book, found: pl.DataFrame, reason: Reason, threshold: float, detail: pl.Expr
) -> pl.DataFrame:
    """Reject the open ones of the rows in `found` (row, other_id, similarity, other_set)."""
    joined = spread(rows, found.select("row", "other_id", "similarity", "other_set"))
    similarity, other = pl.col("similarity"), pl.col("other_id")
    joined = book.reject(
        joined, other.is_not_null(), reason, score=similarity, threshold=threshold, detail=detail, duplicate_of=other
    )
    return joined.drop("other_id", "similarity", "other_set")
