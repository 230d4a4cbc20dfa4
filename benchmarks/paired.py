"""What a benchmark could see at all: arms measured on the same images, compared image by image.

Arms of one seed share first weights, order of samples and augmentation, so they are compared in pairs; the interval of
a difference comes from drawing the tested units (images, volumes) with replacement. Half of its width is the smallest
difference that the benchmark could tell from none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """An arm less the baseline, over all units: mean, and half of the interval's width."""

    mean: float
    half: float

    @property
    def told(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half


class Units:
    """Each unit's value by metric, arm and seed, kept in `folder` so that a run that was cut off goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, arm: str, seed: int, values: Mapping[str, Sequence[float]]) -> None:
        """Keep the values of one arm and seed; the units come in the same order for all arms."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {metric: [float(v) for v in found] for metric, found in values.items()}
        scratch = self._path(arm, seed).with_suffix(".scratch")
        scratch.write_text(json.dumps(whole))
        scratch.rename(self._path(arm, seed))

    def _path(self, arm: str, seed: int) -> Path:
        return self.folder / f"{arm.replace('/', '_')} {seed}.json"

    def mean_over_seeds(
        self, arm: str, metric: str, seeds: Sequence[int]
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Values (units,); empty where an arm has none of that metric."""
        found = [json.loads(path.read_text()) for seed in seeds if (path := self._path(arm, seed)).is_file()]
        rows = [one[metric] for one in found if metric in one]
        return np.mean(np.array(rows, np.float64), axis=0) if rows else np.zeros(0)

    def difference(self, arm: str, baseline: str, metric: str, seeds: Sequence[int]) -> Difference | None:
        """`arm` less `baseline`; None where they were not measured on the same units."""
        first, second = (self.mean_over_seeds(name, metric, seeds) for name in (arm, baseline))
        if len(first) != len(second) or len(first) < 2:
            return None
        gaps = first - second
        rng = np.random.default_rng(0)
        means = gaps[rng.integers(len(gaps), size=(DRAWS, len(gaps)))].mean(axis=1)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Difference(float(gaps.mean()), float(high - low) / 2)

    def table(self, arms: Sequence[str], baseline: str, metrics: Sequence[str], seeds: Sequence[int]) -> str:
        """A line an arm and metric: difference to the baseline, its interval, and the smallest that could be seen."""
        lines = [
            f"differences to {baseline}, paired by unit, {LEVEL:.0%} intervals; ± is the smallest that can be seen"
        ]
        for arm in arms:
            cells = []
            for metric in metrics:
                found = None if arm == baseline else self.difference(arm, baseline, metric, seeds)
                if found is not None:
                    cells.append(f"{metric} {found.mean:+.3f} ± {found.half:.3f}{'' if found.told else ' (none seen)'}")
            if cells:
                lines.append(f"{arm}: " + ", ".join(cells))
        return "\n".join(lines)
