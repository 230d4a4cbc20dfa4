"""Ranking: which of the samples that passed all gates stay, group by group. Ties go to the smaller sample_id.

Source: H. Tang et al., "A Training-Free Synthetic Data Selection Method for Semantic Segmentation" (SDS), AAAI 2025:
samples are ranked by pooled IoU among samples with equally many classes. Ranking by class is ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from maskmill.curation.select.config import SelectConfig

NO_CUT = "no more than keep_fraction passed the gates, so nothing is ranked away"
NO_CLASS = "scored for no class of its mask"
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Ranks:
    """Verdicts on N survivors: does it stay, its place in its group (0: in none), the group (an index) and the score
    that ranked it. Of each group its value, how many it has, how many of them stay, and the score of the last of these.
    """

    stays: NDArray[np.bool_]
    place: Int32
    group: Int32
    score: Float32
    values: Int64
    sizes: Int64
    limits: Int64
    cuts: Float32
    words_: str

    def table(self, rows: pl.Series) -> pl.DataFrame:
        """Verdicts by `row`, to be laid beside all rows."""
        columns = {"stays": self.stays, "rank": self.place.astype(np.uint32), "group": self.group}
        return pl.DataFrame({"row": rows, **columns, "rank_score": pl.Series(self.score, nan_to_null=True)})

    def words(self, rows: pl.DataFrame) -> pl.DataFrame:
        """(cut, place) of rows that have the columns of `table`: the score that they were held against, and where they
        stand, in words.
        """
        ranked = rows["rank"].fill_null(0) > 0
        at = rows["group"].zip_with(ranked, pl.Series([None], dtype=pl.Int32))
        of_each = zip(self.sizes, self.values, self.limits, strict=True)
        told = pl.Series([self.words_.format(size, value, limit) for size, value, limit in of_each], dtype=pl.String)
        words = pl.when("ranked").then(pl.format("rank {}{}", "rank", "told")).otherwise(pl.lit(NO_CLASS))
        frame = rows.select("rank").with_columns(ranked=ranked, told=told.gather(at)).select(place=words)
        return frame.with_columns(cut=pl.Series(self.cuts, nan_to_null=True).gather(at))


def share_to_keep(config: SelectConfig, total: int, survivors: int) -> float:
    """rho as configured, or the share of `survivors` that leaves keep_fraction * `total` samples, within [0, 1]."""
    if config.rho is not None:
        return config.rho
    return min(1.0, config.keep_fraction * total / survivors) if survivors else 0.0


def cuts_nothing(config: SelectConfig, rho: float) -> bool:
    """Whether the ranking lets all survivors pass although a share was to be kept: the gates left no more than that."""
    return config.rho is None and config.keep_fraction < 1 and rho >= 1


def rank(survivors: pl.DataFrame, config: SelectConfig, rho: float) -> Ranks:
    """Verdicts on `survivors`, which are sorted by sample_id, each once: of equal scores the first stay.

    n_classes: groups of equally many classes; each keeps ceil(rho * size), or min_keep if that is more. class: groups
    of samples that show a class, ranked by that class' IoU; a sample stays if any of its classes takes it, and the
    reported group is the one in which it stands best against the cut.
    """
    entries = _by_class(survivors, config) if config.group_by == "class" else _by_count(survivors, config)
    owner, group = (entries[name].cast(pl.Int32).to_numpy() for name in ("owner", "group"))
    score = entries["rank_score"].cast(pl.Float32).to_numpy()
    del entries
    values, group = _numbered(group)
    order = _best_first(group, score)
    sizes = np.bincount(group, minlength=len(values))
    limits = np.array([_limit(config, rho, int(v), int(n)) for v, n in zip(values, sizes, strict=True)], np.int64)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32) - np.repeat((starts - 1).astype(np.int32), sizes)
    cut_at = order[np.minimum(starts + np.maximum(limits, 1) - 1, len(order) - 1)] if len(order) else order
    cuts = np.where(limits > 0, score[cut_at], np.nan).astype(np.float32)
    best = _best_of_each(owner, (place - limits[group]) * max(len(values), 1) + group, survivors.height)
    found, at = best >= 0, np.maximum(best, 0)

    def of_best(values: NDArray[np.generic], otherwise: float) -> NDArray[np.generic]:
        return np.where(found, values[at], otherwise) if len(values) else np.full(len(at), otherwise)

    place, group = of_best(place, 0).astype(np.int32), of_best(group, 0).astype(np.int32)
    stays = found & (place <= limits[group]) if len(limits) else found
    score = of_best(score, np.nan).astype(np.float32)
    return Ranks(stays, place, group, score, values, sizes, limits, cuts, _words(config, rho))


def _words(config: SelectConfig, rho: float) -> str:
    """What is said of a place after its rank, with room for size, group and limit."""
    word = "class" if config.group_by == "class" else "number of classes"
    why = f"; {NO_CUT}" if cuts_nothing(config, rho) else ""
    return f" of {{}} with {word} {{}}; {{}} stay (rho {rho:.4g}{why})"


def _by_count(survivors: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """One entry a sample: (owner = its place among the survivors, group, rank_score)."""
    rows = survivors.select(owner=pl.int_range(pl.len()), group="classes", rank_score=config.rank_by)
    return rows.filter(pl.col("group").is_not_null())


def _by_class(survivors: pl.DataFrame, config: SelectConfig) -> pl.DataFrame:
    """One entry for each class of a sample, in the samples' order."""
    some = survivors.select("per_class", "label_ids", owner=pl.int_range(pl.len()), own=config.rank_by)
    each = some.select("owner", "own", "per_class").explode("per_class").unnest("per_class")
    score = pl.col("iou") if config.rank_by == "asf" else pl.col("own")
    masked = each.select("owner", group="class_id", rank_score=score)
    bare = some.filter(pl.col("per_class").is_null())  # photos without masks
    if bare.height:
        others = bare.explode("label_ids").select("owner", group="label_ids", rank_score="own")
        masked = pl.concat([masked, others]).sort("owner", maintain_order=True)
    return masked.filter(pl.col("group").is_not_null())


def _numbered(groups: Int32) -> tuple[Int64, Int32]:
    """The values that occur, ascending, and the index of each entry's among them."""
    if not len(groups):
        return groups.astype(np.int64), groups
    low = groups.min()
    there = np.bincount(groups - low) > 0  # class ids and numbers of classes are small
    return np.flatnonzero(there) + low, (np.cumsum(there, dtype=np.int32) - 1)[groups - low]


def _best_first(groups: Int32, scores: Float32) -> Int64:
    """Entries by group, and in each by score from best to worst, without a score last; equals stay in order.

    A float32 is sorted by its bits, 16 at a time: for 16 bits numpy counts instead of comparing.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0 is 0
    falling = np.where(bits >> 31, bits, ~(bits | np.uint32(1 << 31)))
    falling[np.isnan(scores)] = np.iinfo(np.uint32).max
    order = np.argsort(falling.astype(np.uint16), kind="stable")
    for keys in ((falling >> 16).astype(np.uint16), *_digits(groups)):
        order = order[np.argsort(keys[order], kind="stable")]
    return order


def _digits(numbers: Int32) -> Sequence[NDArray[np.uint16]]:
    """Non-negative numbers 16 bits at a time, the lowest first."""
    most = int(numbers.max(initial=0))
    found: list[NDArray[np.uint16]] = []
    while most or not found:
        found.append((numbers >> 16 * len(found)).astype(np.uint16))
        most >>= 16
    return found


def _best_of_each(owners: Int32, keys: Int64, count: int) -> Int64:
    """For each of `count` owners the index of its entry with the lowest key; -1 where it has none. `owners` ascend."""
    best = np.full(count, -1, np.int64)
    if not len(owners):
        return best
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    lowest = np.minimum.reduceat(keys, starts)
    at = np.flatnonzero(keys == np.repeat(lowest, np.diff(starts, append=len(owners))))
    best[owners[at[::-1]]] = at[::-1]
    return best


def _limit(config: SelectConfig, rho: float, group: int, size: int) -> int:
    """How many of a group of `size` stay. Rounding before ceil keeps 0.07 * 100 = 7.000000000000001 at 7."""
    share = math.ceil(round(rho * size, 9))
    if config.group_by == "class":
        share = config.quotas.get(group, share)
        share = share if config.max_per_class is None else min(share, config.max_per_class)
    return min(size, max(config.min_keep, share))
