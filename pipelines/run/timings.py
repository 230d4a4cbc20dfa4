"""RUN/timings.json: how long each step took when it last had work, and how long it would take now."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import fsspec

from maskmill.data_contracts import read_bytes, where_writable, write_bytes
from maskmill.data_contracts.texts import parse_json

FILE = "timings.json"


@dataclass(frozen=True)
class StepTime:
    """Wall seconds of a step for so many units and the samples in them."""

    name: str
    seconds: float
    units: int
    rows: int = 0
    device: str = ""
    bare: float | None = None  # images a second of the model alone

    @property
    def rate(self) -> float | None:
        """Samples a second."""
        return self.rows / self.seconds if self.rows and self.seconds > 0 else None

    @property
    def share(self) -> float | None:
        """Its rate as a share of the bare model's."""
        return self.rate / self.bare if self.rate and self.bare else None

    @property
    def per_unit(self) -> float:
        return self.seconds / max(self.units, 1)


def read_times(run_dir: str) -> dict[str, StepTime]:
    """Stored times by step; empty where there are none, or none that can be read."""
    try:
        found = parse_json(read_bytes(f"{run_dir}/{FILE}"))
        fields = StepTime.__dataclass_fields__
        times = [StepTime(**{name: one[name] for name in fields if name in one}) for one in found]
    except (OSError, ValueError, TypeError):
        return {}
    return {time.name: time for time in times}


def note_times(run_dir: str, measured: Iterable[StepTime]) -> None:
    """Store the times of steps that did something; those of the others stay."""
    times = {**read_times(run_dir), **{time.name: time for time in measured if time.units}}
    if times:
        with where_writable():
            rows = [asdict(time) for time in times.values()]
            write_bytes(f"{run_dir}/{FILE}", (json.dumps(rows, indent=1) + "\n").encode())


def known_times(run_dir: str) -> tuple[dict[str, StepTime], str]:
    """Times of this run, else of the run beside it that has some; and which run they are of."""
    if times := read_times(run_dir):
        return times, run_dir
    home = run_dir.rstrip("/").rpartition("/")[0] or "."
    fs, target = fsspec.core.url_to_fs(home)
    for folder in sorted(fs.ls(target, detail=False)) if fs.isdir(target) else []:
        if times := read_times(fs.unstrip_protocol(folder) if "://" in run_dir else folder):
            return times, folder.rstrip("/").rpartition("/")[2]
    return {}, ""
