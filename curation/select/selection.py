"""Selection: stored scores in, one decision a sample out. No model, no pixels; ten million rows take seconds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from maskmill.curation.select import gates, review, twins
from maskmill.curation.select.book import OPEN, Book, parts, spread
from maskmill.curation.select.config import SelectConfig
from maskmill.curation.select.quotas import Ranks, rank, share_to_keep
from maskmill.curation.select.strata import correct
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
_PREFIX = 16  # hex digits of an id that are one number
VERDICT = ("reason", "why", "score", "threshold")
RANKED = ("per_class", "label_ids")
HEAVY = (*RANKED, "classes", "n_classes")  # read by the ranking last
GIVEN = ("score_reason", "score_detail")  # of scores: read by the first gates alone
ROWS = 500_000  # decisions put into words at a time
WRITERS = 2  # a sentence is made on one thread, whatever pool polars has


@dataclass(frozen=True)
class Selection:
    """The decisions, and the numbers that were in force."""

    rho: float
    thresholds: dict[str, float]
    _rows: pl.DataFrame = field(repr=False)
    _book: Book = field(repr=False)
    _ranks: Ranks = field(repr=False)

    @cached_property
    def decisions(self) -> pl.DataFrame:
        """Rows of the DECISION contract, sorted by sample_id and shard."""
        return pl.concat(list(self.parts()))

    def parts(self) -> Iterator[pl.DataFrame]:
        """`decisions`, so many at a time: all their words together take more memory than what they speak of."""
        some = [self._rows] if self._rows.is_empty() else parts(self._rows, ROWS)
        with ThreadPoolExecutor(WRITERS) as pool:
            yield from pool.map(lambda one: _in_words(one, self._book, self._ranks), some)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason, `kept` among them; they add up to the rows that came in."""
        counted = self._rows.select(reason=_outcome().cast(pl.String)).group_by("reason").len()
        return dict(counted.sort("reason").iter_rows())

    @property
    def height(self) -> int:
        """Rows in all."""
        return self._rows.height


def select(scores: pl.DataFrame, neighbours: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """Decide on every row of `scores`: see `decide`, of which this is the table alone."""
    return decide(scores, neighbours, config).decisions


def decide(
    scores: pl.DataFrame, neighbours: pl.DataFrame, config: SelectConfig, verdicts: pl.DataFrame | None = None
) -> Selection:
    """Decide on every row of `scores`, whatever their order. Needs `SCORE_COLUMNS` and `shard` (the file name of the
    sample shard).

    Gates in order: repeated id, negatives that are to stay, not scored, leak into a test set, entropy, PCS, image
    score, label swap, ASF floor; then what people said (`verdicts`, rows of `review.COLUMNS`), whatever the gates
    say; then the best of samples that are nearly the same, then ranking in groups. What is
    turned away although a *kept* sample is nearly the same is a near-duplicate of that one; nothing is called a
    duplicate of what was turned away.

    `neighbours` are rows of the NEIGHBOUR contract. `scores` may carry `clip`, the clip of a frame (see
    `twins.pairs_that_count` and `typical_cuts`), `source_path`, the strata of each sample (see `strata.correct`), and
    what `company` says of it.

    Each decision has one reason, the score that decided and what it was held against. A sample_id that several shards
    hold gets one row a shard: kept or rejected in the first, `duplicate_id` in the others; (sample_id, shard) is
    unique.

    Raises:
        SelectionError: a gate lower than the one that scoring used, so that ASF is missing.
    """
    columns = _typed(scores).get_columns()
    del scores  # with ten million of them there is no room for both
    rows = correct(_in_order(columns), config.strata)
    book = Book([name for name in rows.columns if name not in (*VERDICT, *HEAVY, *GIVEN)])
    rows = gates.reject_repeated_ids(rows, book)
    rows = gates.keep_negatives(rows, book, config)
    total = rows.filter(OPEN).height
    rows = gates.reject_unscored(rows, book).drop(GIVEN)
    rows = gates.reject_leaks(rows, book, neighbours, config)
    rows, thresholds = gates.reject_by_image(rows, book, config)
    gates.check_scored(rows, config)
    rows, floor = gates.reject_low_asf(rows, book, config)
    pairs = twins.pairs_that_count(rows, neighbours, config)
    if verdicts is not None:
        rows = review.make_way(review.honour(rows, book, verdicts), book, pairs, config)
    near = twins.Twins.of(rows, pairs)
    better = near.better(rows, config)
    wanted = {"row", "classes", *RANKED, config.rank_by}
    survivors = rows.select(pl.col(*wanted).filter(OPEN & near.without(rows, better)))
    rows, places = rows.drop(HEAVY), survivors["row"]
    rho = share_to_keep(config, total, survivors.height)
    ranks = rank(survivors, config, rho)
    del survivors
    kept = places.filter(pl.Series(ranks.stays, dtype=pl.Boolean))
    rows = near.reject_duplicates(rows, book, near.of_kept(rows, better, kept), config)
    rows = near.reject_with_the_better(rows, book, better)
    rows = spread(rows, ranks.table(places))
    return Selection(rho, {**thresholds, **floor}, rows, book, ranks)


def _typed(scores: pl.DataFrame) -> pl.DataFrame:
    """NaN turned into null, classes counted, reasons and shards as numbers."""
    classes = pl.coalesce("n_classes", pl.col("per_class").list.len().cast(pl.Int32), pl.col("label_ids").list.len())
    known = {*(reason.value for reason in Reason), *scores["reason"].drop_nulls().unique()}
    reasons = pl.Enum(sorted(known))
    shards = pl.Enum(scores["shard"].cast(pl.String).drop_nulls().unique().sort())
    return scores.rename(dict(zip(("reason", "detail"), GIVEN, strict=True))).with_columns(
        *(pl.col(name).cast(pl.Float32).fill_nan(None) for name in _FLOATS),
        pl.col("score_reason").cast(reasons),
        pl.col("shard").cast(shards),
        classes=classes.cast(pl.Int32),
    )


def _in_order(columns: list[pl.Series]) -> pl.DataFrame:
    """Rows sorted by sample_id and shard, numbered so in `row`, with the columns of a verdict. `columns` is emptied on
    the way, so that no column is there twice for longer than its sorting takes.
    """
    order = _order(pl.DataFrame([column for column in columns if column.name in ("sample_id", "shard")]))
    found = []
    for _ in range(len(columns)):
        found.append(columns.pop(0).gather(order))
    rows = pl.DataFrame(found).with_row_index("row")
    return rows.with_columns(
        reason=pl.lit(None, dtype=rows.schema["score_reason"]),
        why=pl.lit(None, dtype=pl.UInt8),
        score=pl.lit(None, dtype=pl.Float32),
        threshold=pl.lit(None, dtype=pl.Float32),
    )


def _order(rows: pl.DataFrame) -> pl.Series:
    """Places of rows (sample_id, shard) by both. Ids are hashes: the first digits of almost all of them differ, and
    numbers sort faster than texts.
    """
    number = pl.col("sample_id").str.slice(0, _PREFIX).str.to_integer(base=16, dtype=pl.UInt64, strict=False)
    even = (pl.col("sample_id").str.len_bytes() == 2 * _PREFIX).all()
    plain = rows.select(even & pl.col("shard").is_not_null().all())
    if not rows.is_empty() and plain.item():
        numbers = rows.select(number).to_series()
        by_shard = rows["shard"].to_physical()
        if numbers.null_count() == 0 and by_shard.is_sorted():
            order = pl.Series(np.argsort(numbers.to_numpy(), kind="stable").astype(np.uint32))
            ids = rows["sample_id"].gather(order)
            if (ids.head(-1) <= ids.tail(-1)).all():  # no two that differ share their first digits
                return order
    by = ["sample_id", pl.col("shard").cast(pl.String)]
    return rows.with_row_index("row").sort(by, maintain_order=True)["row"]


def _outcome() -> pl.Expr:
    """The reason of every row: the verdict's, or what the ranking made of it."""
    ranked = pl.when(pl.col("stays")).then(pl.lit(Reason.KEPT.value)).otherwise(pl.lit(Reason.BELOW_QUOTA.value))
    return pl.coalesce(pl.col("reason").cast(pl.String), ranked)


def _in_words(rows: pl.DataFrame, book: Book, ranks: Ranks) -> pl.DataFrame:
    """Rows in the columns of the DECISION contract; the open ones have the outcome of the ranking."""
    known = rows if "verdict" in rows.columns else review.without_verdicts(rows)
    joined = known.join(book.words(rows), on="row", how="left", maintain_order="left").hstack(ranks.words(rows))
    return joined.select(
        "sample_id",
        review.stage_of(STAGE),
        kept=(OPEN & pl.col("stays").fill_null(False)) | (pl.col("reason") == Reason.KEPT.value).fill_null(False),
        reason=_outcome(),
        detail=pl.when(OPEN).then("place").otherwise("detail"),
        score=pl.when(OPEN).then("rank_score").otherwise("score"),
        threshold=pl.when(OPEN).then("cut").otherwise("threshold"),
        duplicate_of="duplicate_of",
        source_path=pl.col("source_path") if "source_path" in rows.columns else pl.lit(None, dtype=pl.String),
        shard=pl.col("shard").cast(pl.String),
        relabel_from="from_class_id",
        relabel_to="to_class_id",
    )
