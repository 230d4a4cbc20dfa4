"""What is known of an export's samples: summaries of shards that add up, and the facts that card and manifest tell."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import ShardEntry
from maskmill.pipelines.core.ledger import Ledger
from maskmill.pipelines.export.sample import ExportSample

Key = TypeVar("Key")
EXAMPLES = 5


class Summary(BaseModel):
    """What a card says of exported samples; summaries of shards add up."""

    model_config = ConfigDict(extra="forbid")

    splits: dict[str, int] = Field(default_factory=dict)
    classes: dict[str, dict[int, int]] = Field(default_factory=dict)  # by split: samples that show a class
    pixels: dict[int, int] = Field(default_factory=dict)  # by mask value
    sources: dict[str, int] = Field(default_factory=dict)
    licences: dict[str, int] = Field(default_factory=dict)
    models: dict[str, int] = Field(default_factory=dict)  # generators as "id@revision"
    prompted: int = 0
    prompts: list[str] = Field(default_factory=list)  # a few examples
    seeds: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        return sum(self.splits.values())

    @classmethod
    def of(cls, samples: Iterable[ExportSample]) -> "Summary":
        """Summary of one shard's kept samples."""
        summary = cls()
        for sample in samples:
            summary._add(sample)
        return summary

    def _add(self, sample: ExportSample) -> None:
        origin = sample.row["provenance"]
        _count(self.splits, sample.split)
        for class_id in sample.row["class_ids"]:
            _count(self.classes.setdefault(sample.split, {}), class_id)
        if sample.row["mask"] is not None:
            numbers = np.bincount(sample.mask.ravel(), minlength=256)
            for value in np.flatnonzero(numbers):
                _count(self.pixels, int(value), int(numbers[value]))
        _count(self.sources, origin["source"] or "not stated")
        _count(self.licences, origin["licence"] or "not stated")
        if origin["model_id"]:
            _count(self.models, f"{origin['model_id']}@{origin['model_revision'] or 'unknown'}")
        if origin["prompt"]:
            self.prompted += 1
            self.prompts = list(dict.fromkeys([*self.prompts, origin["prompt"]]))[:EXAMPLES]
        if origin["seed"] is not None:
            low, high = self.seeds or (origin["seed"], origin["seed"])
            self.seeds = (min(low, origin["seed"]), max(high, origin["seed"]))

    @classmethod
    def total(cls, parts: Iterable["Summary"]) -> "Summary":
        """Sum over shards."""
        whole = cls()
        for part in parts:
            for name in ("splits", "pixels", "sources", "licences", "models"):
                for key, number in getattr(part, name).items():
                    _count(getattr(whole, name), key, number)
            for split, classes in part.classes.items():
                for key, number in classes.items():
                    _count(whole.classes.setdefault(split, {}), key, number)
            whole.prompted += part.prompted
            whole.prompts = list(dict.fromkeys([*whole.prompts, *part.prompts]))[:EXAMPLES]
            edges = [edge for pair in (whole.seeds, part.seeds) if pair for edge in pair]
            whole.seeds = (min(edges), max(edges)) if edges else None
        return whole


def _count(counts: dict[Key, int], key: Key, number: int = 1) -> None:
    counts[key] = counts.get(key, 0) + number


@dataclass(frozen=True)
class Facts:
    """What card, manifest and Croissant say of an export."""

    title: str
    description: str
    summary: Summary
    ledger: Ledger
    shards: tuple[ShardEntry, ...]
    lineage: tuple[str, ...]
    versions: dict[str, str]
    config: dict[str, Any]
    config_hash: str

    @property
    def licences(self) -> list[str]:
        return sorted(self.summary.licences)
