"""One YAML file, one run: the config of every stage, checked before anything starts."""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from maskmill.curation.dedup import DedupConfig
from maskmill.curation.sds import SdsConfig
from maskmill.curation.select import SelectConfig
from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.pipelines.core.settings import load_settings
from maskmill.pipelines.export import ExportConfig
from maskmill.pipelines.ingest import SourceConfig
from maskmill.pipelines.report import ReportConfig
from maskmill.pipelines.run.rounds import GenerateConfig
from maskmill.pipelines.stages.downstream import DownstreamConfig
from maskmill.pipelines.stages.score import ScoreConfig


class RunConfig(BaseModel):
    """Everything a run depends on. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name of the dataset that comes out")
    run_dir: str = Field(description="folder (or fsspec URL) of everything that the run writes")
    label_space: str | LabelSpace = Field(default="voc", description="built-in name, YAML file, or the space itself")
    seed: int = 0
    shard_size: int = Field(default=64, ge=1, le=2**31 - 1, description="samples per shard, the unit of work")
    workers: int = Field(default=1, ge=1, le=1024, description="shards in work at once")
    source: SourceConfig | None = Field(default=None, description="pairs that exist: where to ingest them from")
    generate: GenerateConfig | None = Field(default=None, description="pairs to make: with what, and how many")
    score: ScoreConfig = SdsConfig()
    dedup: DedupConfig = DedupConfig()
    select: SelectConfig = SelectConfig()
    downstream: DownstreamConfig | None = Field(
        default=None, description="train on what was kept, and on other subsets"
    )
    export: tuple[ExportConfig, ...] = ()
    report: ReportConfig = ReportConfig()

    @field_validator("run_dir")
    @classmethod
    def _a_folder(cls, run_dir: str) -> str:
        if not run_dir.strip() or not run_dir.strip().strip("/"):
            raise ValueError(f"expected a folder of its own for the run, found {run_dir!r}; name one, e.g. runs/mine")
        return run_dir

    @model_validator(mode="after")
    def _sources_lie_elsewhere(self) -> "RunConfig":
        tested = None if self.downstream is None else self.downstream.test
        for key, source in (("source", self.source), ("downstream.test", tested)):
            if source is not None and source.root and _inside(source.root, self.run_dir):
                fix = "copy the data elsewhere, or name another run_dir"
                raise ValueError(
                    f"{key}.root {source.root} lies in run_dir {self.run_dir}, where the run writes; {fix}"
                )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> "RunConfig":
        if (self.source is None) == (self.generate is None):
            raise ValueError("a run either ingests (`source`) or generates (`generate`): give one of the two")
        wanted = {
            "duplicate_similarity": self.select.duplicate_similarity,
            "leak_similarity": self.select.leak_similarity,
        }
        for key, similarity in wanted.items():
            if similarity < self.dedup.threshold:
                found = f"{similarity} and {self.dedup.threshold}"
                raise ValueError(
                    f"select.{key} must be at least dedup.threshold, below which no pair is recorded: {found}"
                )
        return self

    @property
    def space(self) -> LabelSpace:
        """The label space itself."""
        return load_label_space(self.label_space) if isinstance(self.label_space, str) else self.label_space


def _inside(path: str, folder: str) -> bool:
    """Whether a path or URL is a folder or lies in it, links followed."""
    inner, outer = (_place(url.removeprefix("file://")) for url in (path, folder))
    return f"{inner}/".startswith(f"{outer}/")


def _place(url: str) -> str:
    return url.rstrip("/") if "://" in url else os.path.realpath(url)


def load_run_config(path: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run's YAML file or preset; `overrides` ({"select.pcs_tau": 0.2}) win. See `load_settings`.

    Raises:
        ConfigError: no such file or preset, unknown key, value of the wrong kind.
    """
    return load_settings(path, RunConfig, overrides)
