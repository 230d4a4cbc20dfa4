"""Seconds to select anew from a million stored score rows, in memory and from shards on disk. Needs no model and no
--data.

Arms: `n_classes` (SDS as published), `class` (balanced by class), `calibrated` (thresholds from the scores,
near-duplicates dropped). Metrics: decide_s (rows in memory), stage_s (reading the shards, deciding, writing
decisions.parquet), kept (share of the rows).
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.common import Options, Record, parse_options
from maskmill.curation.select import SelectConfig, decide
from maskmill.data_contracts import NEIGHBOUR, SCORE, read_shard, shard_name, write_shard
from maskmill.pipelines.core.stage import run_unit
from maskmill.pipelines.stages.select import read_scores, select_stage, select_units

ROWS = {"small": 1_000_000, "full": 1_000_000}
SHARD = 2_000
CLASSES = 80
EMBEDDING = 32  # stored but never read by selection
ARMS = {
    "n_classes": SelectConfig(preset="faithful"),
    "class": SelectConfig(preset="faithful", group_by="class", min_keep=50),
    "calibrated": SelectConfig(preset="starter"),
}


def random_scores(rng: np.random.Generator, start: int, count: int) -> pa.Table:
    """SCORE rows with one to three of 80 classes; a fifth has a low image score, a fifth a low ASF."""
    classes = rng.integers(1, 4, count)
    offsets = np.concatenate([[0], np.cumsum(classes)]).astype(np.int32)
    ids = rng.integers(1, CLASSES + 1, offsets[-1]).astype(np.int32)
    spoilt = rng.integers(0, 5, count)
    pcs = np.abs(rng.normal(np.where(spoilt == 0, 0.05, 0.4), 0.08)).astype(np.float32)
    asf = np.clip(rng.normal(np.where(spoilt == 1, 0.2, 0.6), 0.12), 0, 1).astype(np.float32)
    ious = np.clip(np.repeat(asf, classes) + rng.normal(0, 0.1, offsets[-1]), 0, 1).astype(np.float32)
    per_class = pa.StructArray.from_arrays([pa.array(ids), pa.array(ious)], ["class_id", "iou"])
    embedding = pa.array(rng.normal(size=count * EMBEDDING).astype(np.float32))
    columns = {
        "sample_id": pa.array([f"{value:032x}" for value in range(start, start + count)]),
        "label_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
        "h_orig": pa.array(rng.random(count).astype(np.float32)),
        "pcs": pa.array(pcs),
        "image_score": pa.array(pcs),
        "asf": pa.array(asf),
        "per_class": pa.ListArray.from_arrays(pa.array(offsets), per_class),
        "n_classes": pa.array(classes.astype(np.int32)),
        "embedding": pa.ListArray.from_arrays(
            pa.array(np.arange(0, count * EMBEDDING + 1, EMBEDDING, dtype=np.int32)), embedding
        ),
    }
    return pa.table([columns.get(f.name, pa.nulls(count, f.type)) for f in SCORE.schema], schema=SCORE.schema)


def random_pairs(rng: np.random.Generator, rows: int) -> pa.Table:
    """Near-duplicate pairs for a twentieth of the rows."""
    first = np.sort(rng.choice(rows - 1, rows // 20, replace=False))
    ids = [[f"{value:032x}" for value in first + step] for step in (0, 1)]
    cosines = rng.uniform(0.93, 1.0, len(first)).astype(np.float32)
    return pa.table([*ids, cosines, ["self"] * len(first)], schema=NEIGHBOUR.schema)


def write_run(folder: str, rows: int, seed: int) -> None:
    """A run folder with `rows` scored samples and their near-duplicate pairs."""
    rng = np.random.default_rng(seed)
    for index, start in enumerate(range(0, rows, SHARD)):
        table = random_scores(rng, start, min(SHARD, rows - start))
        path = f"{folder}/scores/{shard_name(index)}"
        write_shard(path, table, SCORE, stage="score", fingerprint=f"{seed}-{index}")
    write_shard(
        f"{folder}/neighbours.parquet", random_pairs(rng, rows), NEIGHBOUR, stage="dedup", fingerprint=f"{seed}"
    )


def measure(folder: str, config: SelectConfig) -> dict[str, float]:
    """Times of one selection."""
    unit = select_units(folder)[0]
    started = time.perf_counter()
    report = run_unit(select_stage(config), unit)
    stage_s = time.perf_counter() - started
    *shards, pairs = unit.inputs
    scores = read_scores(shards)
    neighbours = pl.DataFrame(read_shard(pairs, NEIGHBOUR))
    started = time.perf_counter()
    decide(scores, neighbours, config)
    decide_s = time.perf_counter() - started
    return {
        "decide_s": decide_s,
        "stage_s": stage_s,
        "kept": report.counts.get("kept", 0) / sum(report.counts.values()),
    }


def run(options: Options, rows: int | None = None) -> dict[str, object]:
    """Measure all arms for all seeds; `rows` other than a million is for tests."""
    record = Record.open(options)
    for seed in options.seeds:
        if all(record.has(arm, seed) for arm in ARMS):
            continue
        with tempfile.TemporaryDirectory(dir=Path(options.json_path).resolve().parent) as folder:
            write_run(folder, rows or ROWS[options.budget], seed)
            for arm, config in ARMS.items():
                record.add(arm, seed, measure(folder, config))
    return record.finish()


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_options("select_million", __doc__, argv, needs_data=False))


if __name__ == "__main__":
    main()
