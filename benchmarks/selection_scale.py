"""Ten million stored scores selected and balanced: seconds and memory of the whole stage, shards in, decisions out.

    python -m benchmarks.selection_scale --seeds 0 --json F                  # 1,000,000 rows
    python -m benchmarks.selection_scale --seeds 0 --budget full --json F    # 10,000,000 rows

Arm `rows_10m` (`rows_1m` with the small budget): rows of one to three of 80 classes in shards of 10,000, near-duplicate
pairs for a twentieth of them; gates as published, the best of near-duplicates, and of each class the same share, 50 at
least. Metrics: `rows`, `seconds` (wall), `cpu_s` (user and system), `peak_gb` (resident, interpreter and libraries
included), `kept` (share of the rows). The stage runs in a process of its own, with as many threads as it takes. Needs
no model and no --data.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.common import Options, Record, parse_options
from benchmarks.select_million import random_scores
from maskmill.curation.select import SelectConfig
from maskmill.data_contracts import NEIGHBOUR, SCORE, shard_name, write_shard

ROWS = {"small": 1_000_000, "full": 10_000_000}
SHARD = 10_000
CONFIG = SelectConfig(preset="faithful", near_duplicates="best", group_by="class", min_keep=50)


def write_run(folder: str, rows: int, seed: int) -> None:
    """A run folder with `rows` scores under random ids, as hashes are, without embeddings, and pairs of samples."""
    rng = np.random.default_rng(seed)
    some: list[str] = []
    for index, start in enumerate(range(0, rows, SHARD)):
        table = random_scores(rng, start, min(SHARD, rows - start))
        text = rng.bytes(16 * table.num_rows).hex()
        ids = [text[at : at + 32] for at in range(0, len(text), 32)]
        some += ids[::10]
        columns = {"sample_id": pa.array(ids), "embedding": pa.nulls(len(ids), SCORE.schema.field("embedding").type)}
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), SCORE.schema.field(name), values)
        path = f"{folder}/scores/{shard_name(index)}"
        write_shard(path, table, SCORE, stage="score", fingerprint=f"{seed}-{index}")
    pairs = sorted(tuple(sorted(pair)) for pair in zip(some[::2], some[1::2], strict=False))
    cosines = rng.uniform(0.93, 1.0, len(pairs)).astype(np.float32)
    columns_ = [[a for a, _ in pairs], [b for _, b in pairs], cosines, ["self"] * len(pairs)]
    table = pa.table(columns_, schema=NEIGHBOUR.schema)
    write_shard(f"{folder}/neighbours.parquet", table, NEIGHBOUR, stage="dedup", fingerprint=f"{seed}")


def measure(folder: str) -> dict[str, float]:
    """The stage over the run in `folder`, in this process."""
    from maskmill.pipelines.core.stage import run_unit
    from maskmill.pipelines.stages.select import select_stage, select_units

    begun, spent = time.perf_counter(), time.process_time()
    report = run_unit(select_stage(CONFIG), select_units(folder)[0])
    rows = sum(report.counts.values())
    return {
        "rows": rows,
        "seconds": time.perf_counter() - begun,
        "cpu_s": time.process_time() - spent,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "kept": report.counts.get("kept", 0) / rows,
    }


def run(options: Options, rows: int | None = None) -> dict[str, object]:
    """One run folder a seed; other `rows` than the budget's are for tests."""
    record, rows = Record.open(options), rows or ROWS[options.budget]
    arm = f"rows_{rows // 10**6}m" if rows >= 10**6 else f"rows_{rows}"
    for seed in options.seeds:
        if record.has(arm, seed):
            continue
        with tempfile.TemporaryDirectory(dir=Path(options.json_path).resolve().parent) as folder:
            write_run(folder, rows, seed)
            command = [sys.executable, "-m", "benchmarks.selection_scale", "--child", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            record.add(arm, seed, json.loads(done.stdout.splitlines()[-1]))
    return record.finish()


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options("selection_scale", __doc__, argv, needs_data=False)
    print(f"{ROWS[options.budget]:,} rows (--budget full: {ROWS['full']:,})")
    run(options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
