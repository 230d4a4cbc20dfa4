"""Score tables made of numbers alone, for the tests of selection."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from maskmill.curation.select import SCORE_COLUMNS, SelectConfig
from maskmill.data_contracts import NEIGHBOUR, SCORE

Row = dict[str, Any]


def score_row(sample_id: str, asf: float | None = 0.5, pcs: float | None = 0.5, **more: Any) -> Row:
    """One SCORE row with shard; `classes` (class id -> IoU) fills per_class and n_classes."""
    classes: dict[int, float] = more.pop("classes", {1: asf if asf is not None else 0.0})
    return {
        "sample_id": sample_id,
        "shard": "shard-00000.parquet",
        "label_ids": sorted(classes),
        "h_orig": 1.0,
        "pcs": pcs,
        "image_score": pcs,
        "asf": asf,
        "per_class": None if asf is None else [{"class_id": c, "iou": iou} for c, iou in sorted(classes.items())],
        "n_classes": None if asf is None else len(classes),
        **more,
    }


def score_table(rows: Sequence[Row]) -> pl.DataFrame:
    """Rows as selection reads them from shards."""
    shards = pl.Series("shard", [row["shard"] for row in rows], dtype=pl.String)
    table = SCORE.table([{k: v for k, v in row.items() if k != "shard"} for row in rows])
    return pl.DataFrame(table.select(list(SCORE_COLUMNS))).with_columns(shards)


def random_rows(count: int, seed: int, classes: int = 5) -> list[Row]:
    """Scores on a coarse grid, so that ties abound; 1 to 3 classes a sample."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        shown = rng.choice(np.arange(1, classes + 1), int(rng.integers(1, min(3, classes) + 1)), replace=False)
        ious = {int(c): float(rng.integers(0, 11)) / 10 for c in shown}
        pcs = float(rng.integers(0, 11)) / 20
        shard = f"shard-{i % 3:05d}.parquet"
        rows.append(score_row(f"{i:04d}", float(rng.integers(0, 11)) / 10, pcs, classes=ious, shard=shard))
    return rows


def faithful(**options: Any) -> SelectConfig:
    """SDS as published, but for `options`."""
    return SelectConfig.model_validate({"preset": "faithful", **options})


def cleaned(**options: Any) -> SelectConfig:
    """The same with near-duplicates and label swaps dropped."""
    return faithful(**{"near_duplicates": "best", "swap": "drop", **options})


def pairs(*found: tuple[str, str, float], other_set: str = "self") -> pl.DataFrame:
    """NEIGHBOUR rows."""
    names = ("sample_id", "other_id", "similarity")
    return pl.DataFrame(NEIGHBOUR.table([{**dict(zip(names, f, strict=True)), "other_set": other_set} for f in found]))


NO_PAIRS = pairs()


def kept(decisions: pl.DataFrame) -> set[str]:
    return set(decisions.filter("kept")["sample_id"])


def reasons(decisions: pl.DataFrame) -> dict[str, str]:
    return dict(zip(decisions["sample_id"], decisions["reason"], strict=True))
