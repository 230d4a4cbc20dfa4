"""Selection: stored scores in, one decision a sample out. No model, no pixels; a million rows take seconds."""

from dataclasses import dataclass

import polars as pl

from maskmill.curation.select import gates, twins
from maskmill.curation.select.config import SelectConfig
from maskmill.curation.select.gates import OPEN
from maskmill.curation.select.quotas import rank, share_to_keep
from maskmill.data_contracts import Reason

STAGE = "select"
SCORE_COLUMNS = (
    "sample_id",
    "label_ids",
    "h_orig",
    "pcs",
    "image_score",
    "asf",
    "per_class",
    "n_classes",
    "swap_class_id",
    "reason",
    "detail",
)
"""What selection reads of a SCORE shard; everything but the embedding."""

_FLOATS = ("h_orig", "pcs", "image_score", "asf")


@dataclass(frozen=True)
class Selection:
    """Decisions (rows of the DECISION contract, sorted by sample_id and shard), and the numbers that were in force."""

    decisions: pl.DataFrame
    rho: float
    thresholds: dict[str, float]

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason, `kept` among them; they add up to the rows that came in."""
        return dict(self.decisions.group_by("reason").len().sort("reason").iter_rows())


def select(scores: pl.DataFrame, neighbours: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """Decide on every row of `scores`: see `decide`, of which this is the table alone."""
    return decide(scores, neighbours, config).decisions


def decide(scores: pl.DataFrame, neighbours: pl.DataFrame, config: SelectConfig) -> Selection:
    """Decide on every row of `scores`, whatever their order. Needs `SCORE_COLUMNS` and `shard` (the file name of the
    sample shard).

    Gates in order: repeated id, negatives that are to stay, not scored, leak into a test set, entropy, PCS, image
    score, label swap, ASF floor; then the best of samples that are nearly the same, then ranking in groups. What is
    turned away although a *kept* sample is nearly the same is a near-duplicate of that one; nothing is called a
    duplicate of what was turned away.

    `neighbours` are rows of the NEIGHBOUR contract. `scores` may carry `clip`, the clip of a frame (see
    `twins.pairs_that_count` and `typical_cuts`), and what `company` says of each sample.

    Each decision has one reason, the score that decided and what it was held against. A sample_id that several shards
    hold gets one row a shard: kept or rejected in the first, `duplicate_id` in the others; (sample_id, shard) is
    unique.

    Raises:
        SelectionError: a gate lower than the one that scoring used, so that ASF is missing.
    """
    rows = _prepare(scores)
    rows = gates.reject_repeated_ids(rows)
    rows = gates.keep_negatives(rows, config)
    total = rows.filter(OPEN).height
    rows = gates.reject_unscored(rows)
    rows = gates.reject_leaks(rows, neighbours, config)
    rows, thresholds = gates.reject_by_image(rows, config)
    gates.check_scored(rows, config)
    rows, floor = gates.reject_low_asf(rows, config)
    pairs = twins.pairs_that_count(rows, neighbours, config)
    better = twins.better_samples(rows, pairs, config)
    survivors = rows.filter(OPEN).join(better, on="sample_id", how="anti", maintain_order="left")
    rho = share_to_keep(config, total, survivors.height)
    verdicts = rank(survivors, config, rho)
    kept = survivors.join(verdicts.filter("stays"), on="row", how="semi")["sample_id"]
    rows = twins.reject_duplicates(rows, twins.of_kept(rows, pairs, better, kept), config)
    rows = twins.reject_with_the_better(rows, better)
    return Selection(_conclude(rows, verdicts), rho, {**thresholds, **floor})


def _prepare(scores: pl.DataFrame) -> pl.DataFrame:
    """Sort, turn NaN into null, count classes, and add the columns of a verdict."""
    classes = pl.coalesce("n_classes", pl.col("per_class").list.len().cast(pl.Int32), pl.col("label_ids").list.len())
    return (
        scores.rename({"reason": "score_reason", "detail": "score_detail"})
        .with_columns(
            *(pl.col(name).cast(pl.Float32).fill_nan(None) for name in _FLOATS),
            classes=classes.cast(pl.Int32),
            reason=pl.lit(None, dtype=pl.String),
            detail=pl.lit(None, dtype=pl.String),
            score=pl.lit(None, dtype=pl.Float32),
            threshold=pl.lit(None, dtype=pl.Float32),
            duplicate_of=pl.lit(None, dtype=pl.String),
        )
        .sort(["sample_id", "shard"])
        .with_row_index("row")
    )


def _conclude(rows: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """Fill the open rows with the verdicts of the ranking, in the columns of the DECISION contract."""
    joined = rows.join(verdicts, on="row", how="left", maintain_order="left")
    outcome = pl.when(pl.col("stays")).then(pl.lit(Reason.KEPT.value)).otherwise(pl.lit(Reason.BELOW_QUOTA.value))
    return joined.select(
        "sample_id",
        pl.lit(STAGE).alias("stage"),
        kept=(OPEN & pl.col("stays").fill_null(False)) | (pl.col("reason") == Reason.KEPT.value).fill_null(False),
        reason=pl.coalesce("reason", outcome),
        detail=pl.when(OPEN).then("place").otherwise("detail"),
        score=pl.when(OPEN).then("rank_score").otherwise("score"),
        threshold=pl.when(OPEN).then("cut").otherwise("threshold"),
        duplicate_of="duplicate_of",
        source_path=pl.lit(None, dtype=pl.String),
        shard="shard",
    )
