"""What it costs to know that every byte is as it was written: shards with and without their checks. Needs no --data.

Arms: `write` (content hash, seal, page checksums), `read` (footer's hash, page checksums), `verify` (every byte).
Metrics: `plain_s` and `checked_s`, seconds for the same rows without and with the checks (the median of five);
`overhead`, the share that the checks add; `gb_per_s`, of `verify`.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import Options, Record, parse_options
from maskmill.data_contracts import SAMPLE, encode_image, encode_mask, read_shard, shard_fault, write_shard

ROWS = {"small": 256, "full": 1024}
SIDE = 320
TURNS = 5


def rows(seed: int, count: int) -> list[dict[str, object]]:
    """Sample rows with photos of noise, the worst case: each is some 300 kB."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, object]] = []
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[40:200, 60:260] = 1 + number % 20
        image = encode_image(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        made.append(
            {
                "sample_id": f"{number:032x}",
                "image": {"bytes": image, "path": f"{number}.png"},
                "mask": {"bytes": encode_mask(mask), "path": None},
                "height": SIDE,
                "width": SIDE,
                "class_ids": [1 + number % 20],
                "provenance": {"source": "noise"},
            }
        )
    return made


def seconds(work: Callable[[], object]) -> float:
    """Median wall time."""
    spent = []
    for _ in range(TURNS):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def measure(seed: int, options: Options, folder: Path) -> dict[str, dict[str, float]]:
    """All arms of one seed."""
    table = SAMPLE.table(rows(seed, ROWS[options.budget]))
    plain, checked = str(folder / "plain.parquet"), str(folder / "checked.parquet")
    write = (
        seconds(lambda: pq.write_table(table, plain, compression="none", row_group_size=256)),
        seconds(lambda: write_shard(checked, table, SAMPLE, stage="noise", fingerprint="x")),
    )
    read = (seconds(lambda: pq.read_table(plain)), seconds(lambda: read_shard(checked, SAMPLE)))
    found = {
        name: {"plain_s": before, "checked_s": after, "overhead": after / before - 1}
        for name, (before, after) in {"write": write, "read": read}.items()
    }
    whole = seconds(lambda: shard_fault(checked))
    return {**found, "verify": {"checked_s": whole, "gb_per_s": Path(checked).stat().st_size / whole / 1e9}}


def main() -> None:
    options = parse_options("check_cost", __doc__, needs_data=False)
    record = Record.open(options)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for arm, metrics in measure(seed, options, Path(folder)).items():
                record.add(arm, seed, metrics)
    record.finish()


if __name__ == "__main__":
    main()
