"""Does selection pay? One segmenter trained on what was kept, the same one on as many samples drawn at random, both
tested on true masks.
"""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import DECISION, LabelSpace, Reason, config_hash, read_bytes, read_shard, sample_seed
from maskmill.data_contracts.sums import read_json
from maskmill.pipelines.core.stage import Stage, StageResult, Unit
from maskmill.pipelines.ingest import SourceConfig, ingest_stage, ingest_units

VERSION = 1
TEST_SHARD = 64
Subset = Literal["kept", "random", "all"]


class DownstreamConfig(BaseModel):
    """What to train on each subset, and what to test it on. `random` has as many samples as `kept`; all subsets get
    the same settings, so the same number of steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trainer: str = Field(default="supervised", description="name of the trainer")
    settings: dict[str, Any] = Field(default_factory=dict, description="of the trainer: steps, batch, augment …")
    subsets: tuple[Subset, ...] = Field(
        default=("kept", "random"),
        description="what is trained on: kept (what selection kept), random (as many at random), all",
    )
    test: SourceConfig = Field(description="pairs with true masks, ingested into RUN/downstream/test")
    overlays: int = Field(default=8, ge=0, description="test samples on the sheet of overlays")


SUBSETS: dict[Subset, str] = {"kept": "what was kept", "random": "as many at random", "all": "everything"}


@dataclass(frozen=True)
class SubsetResult:
    """What came out for one subset: how many samples it had, the metrics, and the sheet of overlays (PNG)."""

    words: str
    samples: int
    metrics: dict[str, Any]
    overlays: bytes | None


def test_stage(config: DownstreamConfig, space: LabelSpace) -> Stage:
    """Ingest of the test set."""
    return ingest_stage(config.test, space)


def test_units(config: DownstreamConfig, run_dir: str) -> list[Unit]:
    """Its units: shards in RUN/downstream/test."""
    return ingest_units(config.test, f"{run_dir}/downstream/test", TEST_SHARD)


def subset_stage(subset: Subset, seed: int) -> Stage:
    """Decisions of a run to the decisions of a subset: `kept` as they are, `all`, or `random` of the same size."""

    def process(unit: Unit) -> StageResult:
        rows = read_shard(unit.inputs[0], DECISION).to_pylist()
        chosen = subset_ids(subset, {row["sample_id"]: row["kept"] for row in rows}, seed)
        for row in rows:
            kept = row["sample_id"] in chosen
            row |= {"kept": kept, "reason": str(Reason.KEPT if kept else Reason.BELOW_QUOTA)}
        return StageResult((DECISION.table(rows),), dict(Counter(row["reason"] for row in rows)))

    return Stage("subset", VERSION, (DECISION,), config_hash({"subset": subset, "seed": seed}), process)


def subset_ids(subset: Subset, kept: dict[str, bool], seed: int) -> set[str]:
    """Ids of a subset. `random`: those with the lowest hash of (seed, id), as many as were kept."""
    number = sum(kept.values())
    if subset == "kept":
        return {i for i, is_kept in kept.items() if is_kept}
    if subset == "all":
        return set(kept)
    return set(sorted(kept, key=lambda i: sample_seed(seed, i, "random subset"))[:number])


def subset_metrics(run_dir: str, subset: str) -> dict[str, Any]:
    """What the segmenter of a subset reached on the test set; {} where there is none."""
    try:
        return dict(read_json(f"{run_dir}/downstream/{subset}/evaluation/metrics.json"))
    except FileNotFoundError:
        return {}


def downstream_results(run_dir: str) -> list[SubsetResult]:
    """What the subsets of a run came to, in the order kept, random, all; [] where nothing was trained."""
    found = []
    for subset, words in SUBSETS.items():
        folder = f"{run_dir}/downstream/{subset}"
        try:
            metrics = read_json(f"{folder}/evaluation/metrics.json")
            table = read_shard(f"{folder}/decisions.parquet", DECISION, ["kept"])
        except FileNotFoundError:
            continue
        overlays = f"{folder}/evaluation/overlays.png"
        picture = read_bytes(overlays) if os.path.exists(overlays) else None
        found.append(SubsetResult(words, sum(table.column("kept").to_pylist()), metrics, picture))
    return found
