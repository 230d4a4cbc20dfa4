"""Near-duplicates in large sets: how many pairs the inverted lists find, and how much faster than all with all.

    python -m benchmarks.dedup_scale --seeds 0 --json F                  # 200,000 embeddings of 512 numbers
    python -m benchmarks.dedup_scale --seeds 0 --budget full --json F    # 1,000,000

Arm `ivf`: what `dedup.backend: auto` does with sets of this size. Embeddings are drawn around topics, around a mean of
all, and rounded to half precision, as stored ones are; a twentieth are near-duplicates of others, with cosines spread
over 0.92 to 1. Metrics: `rows`; `pairs` found; `recall` of the pairs that an exact search finds for a probe of 2,000
samples; `cpu_s` of the whole search; `exact_cpu_s`, what comparing all with all would take, by the seconds that the
probe took (half of it before, half after the search, so that a busy machine slows both); `speed` = exact_cpu_s / cpu_s;
`peak_gb` of memory, embeddings included; `on_disk` 1 where memory was too short for them. Needs no model and no --data.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Options, Record, parse_options
from maskmill.curation.dedup import DedupConfig, find_pairs
from maskmill.curation.dedup.room import room_for

ROWS = {"small": 200_000, "full": 1_000_000}
WIDTH = 512
TOPICS = 2_000
NOISE = np.float32(1.2)  # of a sample around its topic: cosines of 0.58 inside a topic, 0.29 beyond
COPIES = 0.05
PROBE = 2_000
BLOCK = 16_384
Float32 = NDArray[np.float32]


def embeddings(rows: int, seed: int) -> Float32:
    """Unit vectors (rows, 512), block by block into memory or, where that is short, a file; the last twentieth are
    near-duplicates of as many others.
    """
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(WIDTH, np.float32)
    topics = rng.standard_normal((TOPICS, WIDTH), np.float32)
    out = room_for(rows, WIDTH)
    copies = int(rows * COPIES)
    originals = rng.choice(rows - copies, copies, replace=False)
    for start in range(0, rows - copies, BLOCK):
        count = min(BLOCK, rows - copies - start)
        raw = common + topics[rng.integers(0, TOPICS, count)] + NOISE * rng.standard_normal((count, WIDTH), np.float32)
        out[start : start + count] = _stored(raw)
    for start in range(0, copies, BLOCK):
        like = out[originals[start : start + BLOCK]]
        cosine = rng.uniform(0.92, 1.0, (len(like), 1)).astype(np.float32)
        other = rng.standard_normal(like.shape, np.float32)
        other -= (other * like).sum(axis=1, keepdims=True) * like
        other /= np.linalg.norm(other, axis=1, keepdims=True)
        place = rows - copies + start
        sine = np.sqrt(1 - cosine**2).astype(np.float32)
        out[place : place + len(like)] = _stored(cosine * like + sine * other)
    return out


def _stored(raw: Float32) -> Float32:
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return np.asarray(unit.astype(np.float16).astype(np.float32))


def measure(rows: int, seed: int) -> dict[str, float]:
    """All figures of one set, in this process."""
    vectors = embeddings(rows, seed)
    probe = np.sort(np.random.default_rng(seed + 1).choice(rows, min(PROBE, rows), replace=False))
    exact = DedupConfig(backend="exact")
    first, before = _timed(vectors[probe[::2]], vectors, exact)
    found, cpu_s = _timed(vectors, vectors, DedupConfig(backend="faiss_ivf"))
    second, after = _timed(vectors[probe[1::2]], vectors, exact)
    wanted = _keys(probe[::2][first[0]], first[1], rows) | _keys(probe[1::2][second[0]], second[1], rows)
    have = _keys(found[0], found[1], rows)
    exact_s = (before + after) * rows / len(probe) / 2  # a set against itself is half the products
    return {
        "rows": rows,
        "pairs": len(have),
        "recall": len(wanted & have) / len(wanted),
        "cpu_s": cpu_s,
        "exact_cpu_s": exact_s,
        "speed": exact_s / cpu_s,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "on_disk": float(isinstance(vectors, np.memmap)),
    }


def _timed(
    queries: Float32, base: Float32, config: DedupConfig
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64], Float32], float]:
    begun = time.process_time()
    found = find_pairs(queries, base, config)
    return found, time.process_time() - begun


def _keys(rows: NDArray[np.int64], columns: NDArray[np.int64], size: int) -> set[int]:
    """Each pair of two samples as one number, whichever side it was found from."""
    low, high = np.minimum(rows, columns), np.maximum(rows, columns)
    return set((low * size + high)[low != high].tolist())


def run(options: Options, rows: int | None = None) -> dict[str, object]:
    """One set a seed; other `rows` than the budget's are for tests."""
    record = Record.open(options)
    for seed in options.seeds:
        if record.has("ivf", seed):
            continue
        arguments = ["-m", "benchmarks.dedup_scale", "--child", str(rows or ROWS[options.budget]), str(seed)]
        done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        record.add("ivf", seed, json.loads(done.stdout.splitlines()[-1]))
    return record.finish()


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options("dedup_scale", __doc__, argv, needs_data=False)
    print(f"{ROWS[options.budget]:,} embeddings of {WIDTH} numbers (--budget full: {ROWS['full']:,})")
    run(options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
