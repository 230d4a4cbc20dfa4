"""Limits that end a run loudly instead of publishing what is left."""

from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from maskmill.data_contracts import Reason, list_shards, read_footer

ROOM = 1 << 30
ORIGINS = frozenset({"ingest", "generate"})  # the steps after which rejects are counted


class LimitsConfig(BaseModel):
    """What a run must not exceed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rejected: float | None = Field(
        default=None, ge=0, le=1, description="share of samples that may be turned away on the way in; more end the run"
    )
    quarantine_bytes: int = Field(
        default=ROOM, ge=0, description="bytes that `quarantine` may hold; what does not fit is named and not kept"
    )

    @model_serializer(mode="wrap")
    def _without_later_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs that leave the newer keys alone keep the hashes that they have always had."""
        dumped: dict[str, Any] = dump(self)
        return {key: value for key, value in dumped.items() if key != "quarantine_bytes" or value != ROOM}


class LimitError(Exception):
    """A run exceeded one of its limits; nothing was selected or published. Names the numbers and the reasons."""


def check_limits(limits: LimitsConfig, run_dir: str) -> None:
    """Hold what came in against the limits.

    Raises:
        LimitError: more was turned away than `limits.rejected` allows.
    """
    if limits.rejected is None:
        return
    counts: Counter[str] = Counter()
    for path in list_shards(f"{run_dir}/samples"):
        if (footer := read_footer(path)) is not None:
            counts.update(footer.counts)
    counts.pop(Reason.NOT_READ, None)  # files that are no samples
    total = sum(counts.values())
    rejected = total - counts.pop(Reason.KEPT, 0)
    if total and rejected / total > limits.rejected:
        reasons = ", ".join(f"{number}x {reason}" for reason, number in counts.most_common(4))
        found = f"{rejected} of {total} samples were turned away ({rejected / total:.0%}; {reasons})"
        fix = f"look at {run_dir}/rejects, mend the source, or raise the limit"
        raise LimitError(f"{run_dir}: {found}, and limits.rejected allows {limits.rejected:.0%}; {fix}")
