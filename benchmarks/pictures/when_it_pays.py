"""The picture of docs/when-it-pays.md: what each way of cleaning gains over training on everything, by the share of
faulty labels.

    python -m benchmarks.pictures.when_it_pays clean_and_train.json --out docs/pictures/when_it_pays.png
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RATES = (10, 25, 50)
#: Arms in the order of the legend, with colour and marker; an arm that a file does not hold is left out.
LINES = {
    "oracle": ("#333333", "o"),
    "sds_gate": ("#00796b", "s"),
    "cross_fit": ("#5e35b1", "^"),
    "sds_half": ("#80cbc4", "D"),
    "small_loss": ("#ef6c00", "v"),
    "confident": ("#c62828", "P"),
    "cleanlab": ("#ad1457", "X"),
    "random_same_size": ("#9e9e9e", "."),
}
WORDS = {"random_same_size": "as many as sds_gate, by chance", "oracle": "oracle (faults removed)"}


def gains(metrics: Mapping[str, Any], arm: str) -> list[tuple[float, float]]:
    """Mean and standard deviation over seeds of mIoU minus that of `all`, in points, at each rate: paired by seed."""
    found = []
    for rate in RATES:
        own, base = (metrics[name][f"miou@{rate}"]["per_seed"] for name in (arm, "all"))
        differences = [a - b for a, b in zip(own, base, strict=True)]
        mean = sum(differences) / len(differences)
        spread = sum((d - mean) ** 2 for d in differences) / max(len(differences) - 1, 1)
        found.append((mean, spread**0.5))
    return found


def draw(metrics: Mapping[str, Any], out: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="#bbbbbb", linewidth=1)
    for arm, (colour, marker) in LINES.items():
        if arm in metrics:
            means, spreads = zip(*gains(metrics, arm), strict=True)
            label = WORDS.get(arm, arm)
            axes.errorbar(
                RATES, means, yerr=spreads, color=colour, marker=marker, capsize=3, label=label, linewidth=1.5
            )
    axes.set_xticks(RATES)
    axes.set_xlabel("faulty labels, % of the trained photos")
    axes.set_ylabel("mIoU on clean photos minus that of `all`, points")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Read the benchmark's JSON file and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures.when_it_pays", description=__doc__)
    parser.add_argument("json", type=Path, help="result of benchmarks.clean_and_train")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/when_it_pays.png"), help="the picture")
    given = parser.parse_args(argv)
    draw(json.loads(given.json.read_text())["metrics"], given.out)


if __name__ == "__main__":
    main()
