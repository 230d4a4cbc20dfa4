"""The arms of `closed_loop`: which pairs each takes, and what is said of a choice."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from maskmill.curation.base import teach
from maskmill.curation.cross_fit import CrossFit, CrossFitConfig, CrossFitScorer
from maskmill.curation.cross_fit.features import FrozenFeatures
from maskmill.curation.select import SelectConfig, select
from maskmill.curation.select.strata import column_of
from maskmill.data_contracts import NEIGHBOUR, SAMPLE, LabelSpace, list_shards, read_shard, sample_seed
from maskmill.pipelines.run.config import load_run_config

HALVES = ("random_half", "pcs_half", "asf_half", "sds_half", "cross_fit_half", "oracle_half")
ARMS = ("all", "sds_gate", *HALVES)
SOUND_IOU = 0.5

# What every half has in common: shares of each class, no gates but those of the arm.
HALF: dict[str, Any] = {
    "preset": "faithful",
    "pcs_tau": None,
    "group_by": "class",
    "leaks": "keep",
    "near_duplicates": "keep",
}
SDS: dict[str, Any] = {"image_score_tau": {"method": "quantile", "keep": 0.75}, "calibrate_by": "class"}


@dataclass(frozen=True)
class Pair:
    """What is known of one generated pair. `quality`: IoU of its mask with what the judge sees; `seen`: whether the
    judge sees the one class asked for, None where there are several; `style`, `scene`: how its prompt begins and ends.
    """

    sample_id: str
    asked: tuple[int, ...]
    quality: float
    seen: bool | None
    style: str = ""
    scene: str = ""


def ranked_by(scores: pl.DataFrame, pairs: Sequence[Pair], value: Mapping[str, float] | None) -> pl.DataFrame:
    """`scores` in which every pair stands for the classes asked for: by `value`, or by its annotation scores where that
    is None. What scoring gave up on counts as 0.
    """
    by_id = {p.sample_id: p for p in pairs}
    ids = scores["sample_id"].to_list()
    own = dict(zip(ids, scores["per_class"].to_list(), strict=True))
    per_class = []
    for i in ids:
        found = {one["class_id"]: one["iou"] for one in own[i] or []} if value is None else {}
        usual = 0.0 if value is None else value[i]
        per_class.append([{"class_id": c, "iou": found.get(c, usual)} for c in by_id[i].asked])
    kind = scores.schema["per_class"]
    asf = pl.col("asf").fill_null(0.0) if value is None else pl.Series([value[i] for i in ids], dtype=pl.Float32)
    return scores.with_columns(
        pl.Series("per_class", per_class, dtype=kind),
        asf.alias("asf"),
        pl.col("image_score").fill_null(0.0),
        pl.lit(None, dtype=pl.String).alias("reason"),
        pl.lit(None, dtype=pl.Int32).alias("swap_class_id"),
    )


def choose(arm: str, scores: pl.DataFrame, pairs: Sequence[Pair], seed: int) -> set[str]:
    """Ids of an arm."""
    if arm == "all":
        return {p.sample_id for p in pairs}
    if arm == "sds_gate":
        return gated(scores, pairs)
    value: dict[str, float] | None = None
    if arm == "random_half":
        value = {p.sample_id: sample_seed(seed, p.sample_id, "half") / 2**63 for p in pairs}
    elif arm == "oracle_half":
        value = {p.sample_id: p.quality for p in pairs}
    changes = {"pcs_half": {"rank_by": "image_score"}, "sds_half": SDS}.get(arm, {})
    chosen: set[str] = set()
    for style in sorted({p.style for p in pairs}):
        alike = [p for p in pairs if p.style == style]
        quotas = {c: math.ceil(n / 2) for c, n in Counter(c for p in alike for c in p.asked).items()}
        config = SelectConfig.model_validate({**HALF, **changes, "quotas": quotas})
        own = ranked_by(scores.filter(pl.col("sample_id").is_in([p.sample_id for p in alike])), pairs, value)
        chosen |= set(select(own, pl.DataFrame(NEIGHBOUR.table([])), config).filter("kept")["sample_id"])
    return chosen


def draws_of(arm: str) -> int:
    """How often an arm is drawn: what chance took once would be held against the others."""
    return 3 if arm == "random_half" else 1


def cross_fit_scores(
    run_dir: str, space: LabelSpace, seed: int, features: FrozenFeatures | None = None
) -> pl.DataFrame:
    """What the scorer `cross_fit` says of all pairs of a run, by features that are at hand where these are given."""
    shards = [read_shard(path, SAMPLE) for path in list_shards(f"{run_dir}/samples")]
    config = CrossFitConfig()
    scorer = teach(CrossFitScorer(config, CrossFit(config, space, features)), shards, seed)
    parts = [scorer.score(shard, seed).replace_schema_metadata(None).drop_columns("embedding") for shard in shards]
    return pl.concat(pl.DataFrame(part).with_columns(shard=pl.lit("0")) for part in parts)


def gated(scores: pl.DataFrame, pairs: Sequence[Pair]) -> set[str]:
    """Ids of what the gates of `starter-generator` leave, on scores corrected by scene and style."""
    by_id = {p.sample_id: p for p in pairs}
    own = ranked_by(scores, pairs, None)
    strata = {
        column_of("scene"): [by_id[i].scene for i in own["sample_id"]],
        column_of("style"): [by_id[i].style for i in own["sample_id"]],
    }
    config = load_run_config("starter-generator").select.model_copy(
        update={"strata": ("scene", "style"), "near_duplicates": "keep", "leaks": "keep"}
    )
    rows = own.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in strata.items())
    return set(select(rows, pl.DataFrame(NEIGHBOUR.table([])), config).filter("kept")["sample_id"])


def faulty_share(pairs: Sequence[Pair]) -> float:
    """Per cent of the pairs in which the judge does not see the class asked for, or sees another mask."""
    return 100 * float(np.mean([p.seen is False or p.quality < SOUND_IOU for p in pairs]))


def opinion(pairs: Sequence[Pair]) -> dict[str, float]:
    """`n`, `quality` and `seen` of a choice."""
    seen = [p.seen for p in pairs if p.seen is not None]
    return {"n": len(pairs), "quality": float(np.mean([p.quality for p in pairs])), "seen": float(np.mean(seen))}


def scene_spread(pairs: Sequence[Pair], chosen: Collection[str]) -> float:
    """Standard deviation over scenes of the share of their pairs that is among `chosen` ids."""
    asked = Counter(p.scene for p in pairs)
    taken = Counter(p.scene for p in pairs if p.sample_id in chosen)
    return float(np.std([taken[scene] / count for scene, count in asked.items()]))
