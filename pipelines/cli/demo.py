"""What `maskmill demo` prints after its runs: which planted faults were caught and by what; what each subset taught."""

import json
from collections import Counter, defaultdict

from rich.console import Console
from rich.table import Table

from maskmill.data_contracts import DECISION, SAMPLE, list_shards, read_shard
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.stages.downstream import downstream_results

SOUND = "none"


def fault_outcomes(run_dir: str) -> dict[str, Counter[str]]:
    """Decision reasons by planted fault (`none` for sound samples), from provenance.extra and decisions.parquet."""
    table = read_shard(f"{run_dir}/decisions.parquet", DECISION, ["sample_id", "reason"])
    reasons = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for path in list_shards(f"{run_dir}/samples"):
        for row in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist():
            extra = json.loads(row["provenance"]["extra"] or "{}")
            found[extra.get("fault", SOUND)][reasons[row["sample_id"]]] += 1
    return dict(found)


def print_faults(config: RunConfig, console: Console) -> None:
    """Print a line per planted fault: how many, how many were caught, and by which reasons."""
    outcomes = fault_outcomes(config.run_dir)
    table = Table("planted fault", "samples", "rejected", "rejected for", title="Planted faults")
    for fault in sorted(outcomes, key=lambda name: (name == SOUND, name)):
        reasons = outcomes[fault]
        total = sum(reasons.values())
        rejected = total - reasons["kept"]
        words = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common() if reason != "kept")
        label = "[dim]none (sound samples)[/]" if fault == SOUND else fault
        table.add_row(label, str(total), f"{rejected} ({rejected / total:.0%})", words)
    console.print(table)


def print_subsets(config: RunConfig, console: Console) -> None:
    """Print a line per subset that a segmenter was trained on: samples and metrics on the test set."""
    table = Table("trained on", "samples", "mIoU", "Dice", title="Does selection pay?")
    for result in downstream_results(config.run_dir):
        figures = [f"{100 * (result.metrics[name] or 0.0):.1f}" for name in ("miou", "dice")]
        table.add_row(result.words, str(result.samples), *figures)
    console.print(table)
