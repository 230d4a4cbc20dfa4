"""`maskmill demo`: the whole job on what ships with maskmill; then which planted faults were caught and by what, and
what each subset taught.
"""

from collections import Counter, defaultdict
from typing import Annotated

import typer
from rich.table import Table

from maskmill.data_contracts import DECISION, SAMPLE, list_shards, read_shard
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.cli.console import say
from maskmill.pipelines.cli.run import execute, load_config
from maskmill.pipelines.run.config import RunConfig
from maskmill.pipelines.stages.downstream import downstream_results

SOUND = "none"


def demo(
    run_dir: Annotated[str, typer.Option(help="where the demo goes; planted faults go beside it")] = "runs/demo",
) -> None:
    """The whole job on what ships with maskmill: draw pairs, score them, select, train a small segmenter on what was
    kept and one on as many at random; then plant faults in drawn scenes, and see which are caught.
    """
    folders = (("demo", run_dir), ("demo-faults", f"{run_dir}-faults"))
    made, planted = (load_config(name, [f"run_dir={folder}"]) for name, folder in folders)
    execute(made)
    execute(planted)
    say(faults_table(planted))
    say(subsets_table(made))


def fault_outcomes(run_dir: str) -> dict[str, Counter[str]]:
    """Decision reasons by planted fault (`none` for sound samples), from provenance.extra and decisions.parquet."""
    table = read_shard(f"{run_dir}/decisions.parquet", DECISION, ["sample_id", "reason"])
    reasons = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for path in list_shards(f"{run_dir}/samples"):
        for row in read_shard(path, SAMPLE, ["sample_id", "provenance"]).to_pylist():
            extra = parse_json(row["provenance"]["extra"] or "{}")
            found[extra.get("fault", SOUND)][reasons[row["sample_id"]]] += 1
    return dict(found)


def faults_table(config: RunConfig) -> Table:
    """A line per planted fault: how many, how many were caught, and by which reasons."""
    outcomes = fault_outcomes(config.run_dir)
    table = Table("planted fault", "samples", "rejected", "rejected for", title="Planted faults")
    for fault in sorted(outcomes, key=lambda name: (name == SOUND, name)):
        reasons = outcomes[fault]
        total = sum(reasons.values())
        rejected = total - reasons["kept"]
        words = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common() if reason != "kept")
        label = "[dim]none (sound samples)[/]" if fault == SOUND else fault
        table.add_row(label, str(total), f"{rejected} ({rejected / total:.0%})", words)
    return table


def subsets_table(config: RunConfig) -> Table:
    """A line per subset that a segmenter was trained on: samples and metrics on the test set."""
    table = Table("trained on", "samples", "mIoU", "Dice", title="Does selection pay?")
    for result in downstream_results(config.run_dir):
        figures = [f"{100 * (result.metrics[name] or 0.0):.1f}" for name in ("miou", "dice")]
        table.add_row(result.words, str(result.samples), *figures)
    return table
