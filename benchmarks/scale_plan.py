"""What a million, a hundred million and a billion samples take: arithmetic from rates that other benchmarks measured.

    python -m benchmarks.scale_plan throughput.json selection_scale.json dedup_scale.json [--images-per-gpu-s 400]

Of each size: shards, tasks of a step, terabytes (photos as they are, masks, scores with embeddings of 512 numbers),
core hours of ingest and of scoring by the starter CLIP, GPU hours of scoring by a model that does so many images a
second on one GPU (the image and one shuffle each; give what `timings.json` of a run says), and time and memory of
selection and of near-duplicate search on one node. Ingest, scoring and selection grow with the samples; the search with
their power of 1.5, for there are about 2 sqrt(N) lists. Prints a table; measures nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskmill.pipelines.core.step import groups_of

SIZES = (10**6, 10**8, 10**9)
SHARD = 2_000
PHOTO, MASK = 80_000, 4_000  # bytes: a JPEG of 640 x 480 and its PNG
ROW, EMBEDDING = 300, 512 * 2  # bytes of a score and its decision, and of an embedding, as zstd leaves them
FORWARDS = 2
HOUR = 3600.0


def rates(paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Means of all metrics by arm, of all the benchmarks' JSON files together."""
    found: dict[str, dict[str, float]] = {}
    for path in paths:
        metrics: Mapping[str, Any] = json.loads(path.read_text())["metrics"]
        for arm, values in metrics.items():
            found[arm] = {name: value["mean"] for name, value in values.items()}
    return found


def plan(samples: int, measured: Mapping[str, Mapping[str, float]], images_per_gpu_s: float) -> dict[str, float]:
    """What so many samples take, by what it is called in the table. Where an arm was not measured its lines are left
    out.
    """
    shards = -(-samples // SHARD)
    out: dict[str, float] = {
        "shards of 2,000": shards,
        "tasks of a step": len(groups_of(shards)[0]),
        "storage, TB": samples * (PHOTO + MASK + ROW + EMBEDDING) / 1e12,
    }
    for arm in ("ingest", "score"):
        if arm in measured:
            out[f"{arm}, core hours"] = samples / measured[arm]["per_s"] / HOUR
    out["score by a large model, GPU hours"] = samples * FORWARDS / images_per_gpu_s / HOUR
    select = max(
        (one for name, one in measured.items() if name.startswith("rows_")), key=lambda m: m["rows"], default=None
    )
    if select is not None:
        out["select, core hours"] = samples * select["cpu_s"] / select["rows"] / HOUR
        out["select, GB of memory"] = samples * select["peak_gb"] / select["rows"]
    if "ivf" in measured:
        search = measured["ivf"]
        out["near-duplicates, core hours"] = search["cpu_s"] * (samples / search["rows"]) ** 1.5 / HOUR
        out["near-duplicates, GB of memory or disk"] = samples * 512 * 4 / 1e9
    return out


def table(plans: Mapping[int, Mapping[str, float]]) -> str:
    """Sizes across, as Markdown."""
    head = ["what", *(f"{size:,}" for size in plans)]
    lines = [head, ["---"] * len(head)]
    lines += [[name, *(_short(one[name]) for one in plans.values())] for name in next(iter(plans.values()))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("scale_plan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files of throughput, selection_scale, dedup_scale")
    parser.add_argument("--images-per-gpu-s", type=float, default=400.0, help="forwards a second of the large model")
    told = parser.parse_args(argv)
    measured = rates(told.results)
    print(table({size: plan(size, measured, told.images_per_gpu_s) for size in SIZES}))


if __name__ == "__main__":
    main()
