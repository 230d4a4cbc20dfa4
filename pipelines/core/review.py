"""What people's verdicts came to in a run: the few numbers that ledger, card and report tell."""

from collections import Counter

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from maskmill.data_contracts import DECISION, Relabel, read_shard
from maskmill.pipelines.core.verdicts import honoured, judged

STAGE = "review"


class Review(BaseModel):
    """Samples of a run that people judged, by verdict, and how many people they were."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kept: int = 0
    rejected: int = 0
    relabelled: dict[str, int] = {}  # by the name of the class that they are
    people: int = 0

    @property
    def words(self) -> str:
        """One sentence."""
        total = self.kept + self.rejected + sum(self.relabelled.values())
        parts = [f"{number:,} {what}" for number, what in ((self.kept, "kept"), (self.rejected, "rejected")) if number]
        parts += [f"{number:,} relabelled to {name}" for name, number in self.relabelled.items()]
        people = "1 person" if self.people == 1 else f"{self.people} people"
        return f"Judged by {people}: {total:,} sample{'s' if total != 1 else ''} ({', '.join(parts)})."


def review_of(run_dir: str) -> Review | None:
    """The verdicts that a run's decisions honour; None where there are none."""
    verdicts = {verdict.sample_id: verdict for verdict in judged(honoured(run_dir).values())}
    if not verdicts:
        return None
    table = read_shard(f"{run_dir}/decisions.parquet", DECISION, ["sample_id", "stage"])
    decided = zip(*(column.to_pylist() for column in table.columns), strict=True)
    found = [verdicts[name] for name, stage in decided if stage == STAGE and name in verdicts]
    if not found:
        return None
    counts = Counter(verdict.verdict for verdict in found)
    return Review(
        kept=counts["keep"],
        rejected=counts["reject"],
        relabelled=dict(sorted(Counter(verdict.to_class or "?" for verdict in found if verdict.to_class).items())),
        people=len({verdict.who for verdict in found}),
    )


def relabels_of(run_dir: str) -> dict[str, Relabel]:
    """The samples whose label people mended, by id, as the decisions carry it."""
    table = read_shard(f"{run_dir}/decisions.parquet", DECISION, ["sample_id", "relabel_from", "relabel_to"])
    mended = table.filter(pc.is_valid(table.column("relabel_to"))).to_pylist()
    return {row["sample_id"]: relabel for row in mended if (relabel := Relabel.of(row)) is not None}
