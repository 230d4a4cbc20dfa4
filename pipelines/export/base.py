"""What an exporter is: options, samples in, files out. Exporters are pure; `runner` reads and writes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from maskmill.data_contracts import LabelSpace, sample_seed
from maskmill.pipelines.export.facts import Facts
from maskmill.pipelines.export.sample import ExportSample, Record, ShardFiles


class Exporter(BaseModel, ABC):
    """A format: a config that knows how to write itself. These are the options that every format has.

    A sample's split depends on the hash of its group (of its id where it has none) alone: clips, volumes and patients
    never straddle two splits, and a sample stays where it is when others come or go. Shares are therefore expectations,
    not exact counts.

    The methods are pure: same input, same bytes. Raise `version` when a change of code changes bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = Field(description="name of the export format")
    splits: dict[str, float] = Field(
        default={"train": 0.9, "val": 0.1}, description="share of each split; the shares add up to 1"
    )
    seed: int = Field(default=0, description="another seed deals the splits anew")
    title: str | None = Field(default=None, description="name on the dataset card; default: the name of the run")
    description: str | None = Field(default=None, description="first paragraph of the dataset card")

    version: ClassVar[int] = 1
    loading: ClassVar[str]  # Python that loads the export, for the dataset card
    values: ClassVar[str] = "Masks hold class ids; 255 means ignore."  # what the files' numbers mean, for the card
    wants_scores: ClassVar[bool] = False  # whether its files tell scores and decisions, too
    card_only: ClassVar[frozenset[str]] = frozenset({"title", "description"})  # options that change no shard

    @property
    def takes_rejected(self) -> bool:
        """Whether samples that selection turned away leave as well."""
        return False

    @field_validator("splits")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        bad = [name for name in value if not (name.isascii() and name.isidentifier())]
        if bad:
            raise ValueError(f"split names must be plain words (letters, digits, underscore), found {bad}")
        if not value or any(share < 0 for share in value.values()) or abs(sum(value.values()) - 1) > 1e-6:
            raise ValueError(f"shares must not be negative and must add up to 1, found {value}")
        return value

    def split_of(self, key: str) -> str:
        """The split of a group (or sample) id."""
        draw = sample_seed(self.seed, key, "split") / 2**63
        edge = 0.0
        shares = sorted((name, share) for name, share in self.splits.items() if share > 0)
        for name, share in shares:
            edge += share
            if draw < edge:
                return name
        return shares[-1][0]  # rounding of the last edge

    @abstractmethod
    def shard(self, samples: Iterable[ExportSample], space: LabelSpace, shard: str) -> ShardFiles:
        """Files and records of one shard; `shard` is its stem, e.g. "shard-00000"."""

    @abstractmethod
    def finish(self, records: list[Record], space: LabelSpace, facts: Facts) -> dict[str, bytes]:
        """Index files over all records, which come sorted by sample id; `facts` are those of the dataset card."""

    def number_of(self, class_id: int, space: LabelSpace) -> int | None:
        """The number that files of this format have for a class (or background, or 255); None where they have none."""
        return class_id

    def header(self, records: list[Record], space: LabelSpace) -> dict[str, Any]:
        """YAML keys that the dataset card needs for this format."""
        return {}

    def notes(self, records: list[Record]) -> list[str]:
        """What a reader of the dataset card must know about this format."""
        return []
