"""Hard samples (holes with islands, touching instances, ignore, one pixel, 1x1, 7x333, ids 200 and 254, negatives)
through every export and back through every reader that is installed.

python -m benchmarks.roundtrip --json FILE

An arm is `export/reader`. Metrics are shares of the 24 samples: `identical` (every pixel as it was, 255 too),
`identical_but_ignored` (the same, but 255 counts as background: what formats without ignored pixels can hold) and
`read` (the reader found the sample).
"""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Record, parse_options
from benchmarks.roundtrip.readers import READERS, Found
from benchmarks.roundtrip.samples import SPACE, make_run, masks
from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.pipelines.export import create_exporter, export_root, run_export

NAME = "roundtrip"
OWN = ("maskmill", "labelmap", "trainers")  # readers that need no package of their name


def compare(truth: dict[str, Uint8Array], found: Found) -> dict[str, float]:
    """The metrics of one arm."""
    masks = dict(found)
    pairs = [(wanted, masks.get(sample_id)) for sample_id, wanted in truth.items()]
    plain = [(np.where(w == IGNORE, 0, w), None if m is None else np.where(m == IGNORE, 0, m)) for w, m in pairs]
    return {
        "identical": float(np.mean([m is not None and np.array_equal(w, m) for w, m in pairs])),
        "identical_but_ignored": float(np.mean([m is not None and np.array_equal(w, m) for w, m in plain])),
        "read": float(np.mean([m is not None for _, m in pairs])),
    }


def different(truth: dict[str, Uint8Array], found: Found, seed: int) -> list[str]:
    """Names of the samples that did not come back as they were."""
    masks_found = dict(found)
    names = dict(zip(truth, masks(seed), strict=True))
    return [name for i, name in names.items() if i not in masks_found or not np.array_equal(truth[i], masks_found[i])]


def measure(seed: int, folder: Path, record: Record) -> None:
    """All arms of one seed."""
    truth = make_run(folder, seed)
    for export, (name, options, readers) in READERS.items():
        exporter = create_exporter(name, splits={"train": 1.0}, **options)
        run_export(str(folder), exporter, SPACE)
        for reader, read in readers.items():
            if reader not in OWN and importlib.util.find_spec(reader) is None:
                print(f"{export}/{reader}: not installed")
                continue
            found = dict(read(Path(export_root(str(folder), exporter))))
            record.add(f"{export}/{reader}", seed, compare(truth, iter(found.items())))
            if worse := different(truth, iter(found.items()), seed):
                print(f"{export}/{reader}, seed {seed}: another mask for {', '.join(worse)}")


def main() -> None:
    options = parse_options(NAME, __doc__, needs_data=False)
    record = Record.open(options)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            measure(seed, Path(folder), record)
    record.finish()


if __name__ == "__main__":
    main()
