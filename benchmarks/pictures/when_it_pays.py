"""The picture of docs/when-it-pays.md: what each way of choosing gains over training on everything, by the share that
is faulty: labels of photos and, with `--loop`, generated pairs.

    python -m benchmarks.pictures.when_it_pays clean_and_train.json --loop closed_loop.json --out picture.png
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Arms in the order of the legend, with colour and marker; an arm that a file does not hold is left out.
LINES = {
    "oracle": ("#333333", "o"),
    "oracle_half": ("#333333", "o"),
    "sds_gate": ("#00796b", "s"),
    "cross_fit": ("#5e35b1", "^"),
    "cross_fit_half": ("#5e35b1", "^"),
    "sds_half": ("#80cbc4", "D"),
    "small_loss": ("#ef6c00", "v"),
    "confident": ("#c62828", "P"),
    "cleanlab": ("#ad1457", "X"),
    "random_same_size": ("#9e9e9e", "."),
    "random_half": ("#9e9e9e", "."),
}
WORDS = {
    "random_same_size": "as many as sds_gate, by chance",
    "random_half": "half by chance",
    "oracle": "oracle (faults removed)",
    "oracle_half": "half with the best masks",
    "cross_fit_half": "half by cross_fit",
    "sds_half": "half by SDS",
}
APART = 0.4  # per cent between markers of neighbouring arms, which would hide each other


@dataclass(frozen=True)
class Panel:
    """Metrics of a benchmark, the rates in the names of its metrics, and what they are called."""

    metrics: Mapping[str, Any]
    rates: tuple[int, ...]
    title: str
    x: str


def gains(metrics: Mapping[str, Any], arm: str, rates: Sequence[int] = (10, 25, 50)) -> list[tuple[float, float]]:
    """Mean and standard deviation over seeds of mIoU minus that of `all`, in points, at each rate: paired by seed."""
    found = []
    for rate in rates:
        own, base = (metrics[name][f"miou@{rate}"]["per_seed"] for name in (arm, "all"))
        differences = [a - b for a, b in zip(own, base, strict=True)]
        mean = sum(differences) / len(differences)
        spread = sum((d - mean) ** 2 for d in differences) / max(len(differences) - 1, 1)
        found.append((mean, spread**0.5))
    return found


def shares(metrics: Mapping[str, Any], rates: Sequence[int]) -> list[float]:
    """Per cent that are faulty at each rate: as measured where a benchmark says so, else the rate."""
    return [
        statistics.fmean(metrics["all"][f"faulty@{rate}"]["per_seed"]) if f"faulty@{rate}" in metrics["all"] else rate
        for rate in rates
    ]


def draw(panels: Sequence[Panel], out: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 5.6 * len(panels), 4.6), dpi=110, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.axhline(0, color="#bbbbbb", linewidth=1)
        at = shares(panel.metrics, panel.rates)
        arms = [arm for arm in LINES if arm in panel.metrics]
        for turn, arm in enumerate(arms):
            colour, marker = LINES[arm]
            means, spreads = zip(*gains(panel.metrics, arm, panel.rates), strict=True)
            x = [share + APART * (turn - len(arms) / 2) for share in at]
            label = WORDS.get(arm, arm)
            axes.errorbar(x, means, yerr=spreads, color=colour, marker=marker, capsize=2, label=label, linewidth=1.4)
        axes.set_xticks(at, [f"{share:.0f}" for share in at])
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.set_xlabel(panel.x)
        axes.set_ylabel("mIoU minus that of training on everything, points")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Read the benchmarks' JSON files and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures.when_it_pays", description=__doc__)
    parser.add_argument("json", type=Path, help="result of benchmarks.clean_and_train")
    parser.add_argument("--loop", type=Path, help="result of benchmarks.closed_loop, for a second panel")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/when_it_pays.png"), help="the picture")
    given = parser.parse_args(argv)
    photos = json.loads(given.json.read_text())["metrics"]
    panels = [Panel(photos, (10, 25, 50), "Labels of photos", "faulty labels, % of the trained photos")]
    if given.loop is not None:
        pairs = json.loads(given.loop.read_text())["metrics"]
        panels.append(Panel(pairs, (10, 25, 40), "Generated pairs", "faulty pairs by the judge, % of all"))
    draw(panels, given.out)


if __name__ == "__main__":
    main()
