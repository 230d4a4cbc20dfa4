"""The one shape of every benchmark: its flags, its fixed split, its resumable record, its JSON file and its table.

options = parse_options("starter_clip", __doc__) record = Record.open(options) for seed in options.seeds:
    if not record.has("starter", seed):
        record.add("starter", seed, {"top1": measure(seed)})
record.finish()
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

T = TypeVar("T")
Budget = Literal["small", "full", "long"]

#: Tenths of all keys (stems, sequences, patients, groups) that a benchmark may train and tune on; the rest is tested.
TRAIN_TENTHS = 7
VERSIONED = (
    *("torch", "timm", "open-clip-torch", "numpy", "polars", "pyarrow", "diffusers", "faiss-cpu"),
    *("torchvision", "pycocotools", "supervision", "webdataset", "datasets"),
)


@dataclass(frozen=True)
class Options:
    """What the command line asked for. `data` is None only where a benchmark makes its own."""

    name: str
    data: Path | None
    test_data: Path | None
    seeds: tuple[int, ...]
    budget: Budget
    json_path: Path
    dev: bool = False
    arms: tuple[str, ...] = ()  # to run; of a benchmark that lets one choose

    @property
    def tested(self) -> Path | None:
        """The folder that is tested: `test_data` where given, else `data`."""
        return self.test_data or self.data


def parse_options(
    name: str,
    description: str | None,
    argv: Sequence[str] | None = None,
    *,
    needs_data: bool = True,
    has_dev: bool = False,
    has_long: bool = False,
    arms: Sequence[str] = (),
) -> Options:
    """Read the flags that every benchmark accepts; bad values end the program with a message, as argparse does.

    With `has_dev` also `--dev`, for a benchmark that can measure its development parts; with `has_long` a third budget,
    longer trainings of the small world; with `arms` also `--arms`, which runs some of them.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=_folder, required=needs_data, metavar="DIR", help="folder of the real data sets")
    parser.add_argument(
        "--test-data",
        type=_folder,
        metavar="DIR",
        help="folder of the same layout: all of --data may be trained on, only this is tested",
    )
    parser.add_argument("--seeds", type=_seeds, default=(0,), metavar="0,1,2", help="one run per seed (default: 0)")
    budgets, meant = ["small", "full"], "small: 10 min, full: 90 min"
    if has_long:
        budgets, meant = [*budgets, "long"], f"{meant}, long: longer trainings of the small world"
    parser.add_argument("--budget", choices=budgets, default="small", help=meant)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", dest="json_path", help="result file")
    if has_dev:
        parser.add_argument("--dev", action="store_true", help="measure development parts, not test parts")
    if arms:
        parser.add_argument("--arms", type=_some_of(arms), default=tuple(arms), metavar="A,B", help="default: all")
    given = parser.parse_args(argv)
    dev, chosen = has_dev and given.dev, given.arms if arms else ()
    return Options(name, given.data, given.test_data, given.seeds, given.budget, given.json_path, dev, chosen)


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {path}")
    return path


def _some_of(arms: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def chosen(text: str) -> tuple[str, ...]:
        names = text.split(",")
        if unknown := set(names) - set(arms):
            raise argparse.ArgumentTypeError(f"no such arm: {', '.join(sorted(unknown))}; there is {', '.join(arms)}")
        return tuple(arm for arm in arms if arm in names)

    return chosen


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas, as in 0,1,2; found {text!r}") from None
    if len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"a seed occurs twice in {text!r}")
    return seeds


def is_train_key(key: str, tenths: int = TRAIN_TENTHS) -> bool:
    """Whether a stem (or sequence, patient, group) belongs to the part that may be learnt from.

    Fixed for ever: BLAKE2b of the key modulo 10, below `tenths`.
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 10 < tenths


def role_of(key: str, *, dev: bool = False) -> Literal["learn", "tested", "left"]:
    """What a benchmark of trainings does with a key: `is_train_key` is learnt from, the rest tested. With `dev` five
    tenths are learnt from and two tested, all of them keys that may be tuned on; the rest is left alone.
    """
    if not dev:
        return "learn" if is_train_key(key) else "tested"
    return "learn" if is_train_key(key, 5) else "tested" if is_train_key(key) else "left"


Part = Literal["train", "dev", "test"]


def part_of(key: str) -> Part:
    """The part of a stem, sequence or group where there are three: 0 to 2 tenths train, 3 to 5 development, the rest
    test. All of train and development are keys that `is_train_key` lets be learnt from.
    """
    return "train" if is_train_key(key, 3) else "dev" if is_train_key(key, 6) else "test"


def take_turns(items: Sequence[T], key: Callable[[T], str], count: int, seed: Sequence[int]) -> list[T]:
    """At most `count` items in a seeded order in which keys take turns."""
    by_key: dict[str, list[T]] = {}
    for index in np.random.default_rng(seed).permutation(len(items)):
        by_key.setdefault(key(items[index]), []).append(items[index])
    longest = max(map(len, by_key.values()), default=0)
    return [rows[i] for i in range(longest) for rows in by_key.values() if i < len(rows)][:count]


@dataclass
class Record:
    """Values by arm, seed and metric. Each `add` is saved at once beside the JSON file, so a cut-off run goes on."""

    options: Options
    values: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    spent_s: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, options: Options) -> Record:
        """Start, or take up what an earlier run with the same flags left unfinished."""
        record = cls(options)
        if record._partial.is_file():
            saved = json.loads(record._partial.read_text())
            if saved["identity"] == record._identity:
                record.values, record.spent_s = saved["values"], saved["spent_s"]
        return record

    @property
    def _partial(self) -> Path:
        return self.options.json_path.with_name(self.options.json_path.name + ".partial")

    @property
    def _identity(self) -> dict[str, Any]:
        o = self.options
        found = {"name": o.name, "data": str(o.data), "test_data": str(o.test_data), "budget": o.budget}
        return found | ({"dev": True} if o.dev else {})

    def has(self, arm: str, seed: int) -> bool:
        return str(seed) in self.values.get(arm, {})

    def add(self, arm: str, seed: int, metrics: Mapping[str, float]) -> None:
        """Store all metrics of one arm and seed."""
        self.values.setdefault(arm, {})[str(seed)] = {name: float(value) for name, value in metrics.items()}
        _write_atomic(self._partial, {"identity": self._identity, "values": self.values, "spent_s": self._wall()})

    def _wall(self) -> float:
        return self.spent_s + time.monotonic() - self.started

    def summary(self) -> dict[str, dict[str, dict[str, Any]]]:
        """`{arm: {metric: {"mean", "sd", "per_seed"}}}` over the seeds asked for (sd: the sample's)."""
        return {arm: self._summarise(by_seed) for arm, by_seed in self.values.items()}

    def _summarise(self, by_seed: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
        runs = [by_seed[str(seed)] for seed in self.options.seeds if str(seed) in by_seed]
        metrics = list(dict.fromkeys(name for run in runs for name in run))
        per_seed = {name: [run[name] for run in runs if name in run] for name in metrics}
        return {
            name: {
                "mean": statistics.fmean(found),
                "sd": statistics.stdev(found) if len(found) > 1 else 0.0,
                "per_seed": found,
            }
            for name, found in per_seed.items()
        }

    def finish(self, *, device: str = "cpu") -> dict[str, Any]:
        """Write the JSON file, print the table and drop the partial file. Returns what was written."""
        o = self.options
        result = {
            "name": o.name,
            "data": str(o.data) if o.data else None,
            "test_data": str(o.test_data) if o.test_data else None,
            "seeds": list(o.seeds),
            "budget": o.budget,
            "device": f"{device}, {platform.machine()}, {os.cpu_count()} cores",
            "versions": versions(),
            "wall_s": round(self._wall(), 1),
            "metrics": self.summary(),
        }
        _write_atomic(o.json_path, result)
        self._partial.unlink(missing_ok=True)
        print(table(self.summary()))
        return result


def versions() -> dict[str, str]:
    """Installed versions of what decides the figures."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(summary: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Arms down, metrics across, `mean ± sd` in each cell."""
    metrics = list(dict.fromkeys(name for by_metric in summary.values() for name in by_metric))
    rows = [["arm", *metrics]]
    for arm, by_metric in summary.items():
        cells = [f"{by_metric[m]['mean']:.3f} ± {by_metric[m]['sd']:.3f}" if m in by_metric else "-" for m in metrics]
        rows.append([arm, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _write_atomic(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(scratch, path)
