"""What a trainer is handed beside its config: data, label space, where to work and where to leave the artifact."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.engine.samples import Samples


@dataclass(frozen=True)
class Job:
    """One training run. `fingerprint` stands for trainer, code version, settings, label space and data contents."""

    trainer: str
    fingerprint: str
    space: LabelSpace
    data: Samples
    val: Samples | None  # None = no evaluation
    run_dir: str  # checkpoint, metrics.jsonl and data cache; local
    out_dir: str  # the artifact
    # given the trained `Artifact`, sentences that say what is wrong with the network
    look: Callable[[Any], list[str]] | None = field(default=None, compare=False)
