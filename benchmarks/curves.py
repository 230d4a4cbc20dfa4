"""Metrics of arms over the steps of their trainings: whether a table was measured where the curve is flat."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.data_contracts import read_bytes

Points = list[tuple[int, float]]


class Curves:
    """Evaluations by arm and seed, kept in `folder` so that a run that was cut off goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, arm: str, seed: int, artifact: str) -> None:
        """Keep what an artifact's training measured on its way."""
        history = json.loads(read_bytes(f"{artifact}/metrics.json")).get("history", [])
        kept = [{**_numbers(one), "step": one["step"] + 1} for one in history]
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self._path(arm, seed).with_suffix(".scratch")
        scratch.write_text(json.dumps(kept))
        scratch.rename(self._path(arm, seed))

    def _path(self, arm: str, seed: int) -> Path:
        return self.folder / f"{arm.replace('/', '_')} {seed}.json"

    def mean(self, arm: str, metric: str, seeds: Sequence[int]) -> Points:
        """(steps done, mean over the seeds that measured there), in order of steps."""
        found: dict[int, list[float]] = {}
        for seed in seeds:
            path = self._path(arm, seed)
            for one in json.loads(path.read_text()) if path.is_file() else []:
                if metric in one:
                    found.setdefault(int(one["step"]), []).append(float(one[metric]))
        return [(step, float(np.mean(values))) for step, values in sorted(found.items())]

    def table(self, arms: Sequence[str], metric: str, seeds: Sequence[int]) -> str:
        """A line an arm: the metric after so many steps."""
        lines = [f"{metric} over the steps, on the images that are measured on the way"]
        for arm in arms:
            if points := self.mean(arm, metric, seeds):
                lines.append(f"{arm}: " + ", ".join(f"{step}: {value:.3f}" for step, value in points))
        return "\n".join(lines)

    def draw(self, arms: Sequence[str], metrics: Mapping[str, str], seeds: Sequence[int], out: Path) -> None:
        """A picture with a panel a metric (name: its words) and a line an arm."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6 * len(metrics), 3.4), dpi=110, layout="constrained")
        panels: Any = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, (metric, words) in zip(panels, metrics.items(), strict=True):
            for arm in arms:
                if points := self.mean(arm, metric, seeds):
                    axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.5, label=arm)
            axes.set(xlabel="steps", ylabel=words)
            axes.spines[["top", "right"]].set_visible(False)
        if panels[0].lines:
            panels[0].legend(frameon=False, fontsize=8)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Software": None})


def _numbers(one: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in one.items() if isinstance(value, (int, float))}
