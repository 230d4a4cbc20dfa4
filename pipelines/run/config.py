"""One YAML file, one run: the config of every stage, checked before anything starts."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from maskmill.curation.dedup import DedupConfig
from maskmill.curation.sds import SdsConfig
from maskmill.curation.select import SelectConfig
from maskmill.data_contracts import LabelSpace, load_label_space
from maskmill.data_contracts.labels import AnySpace
from maskmill.pipelines.core.settings import ConfigError, load_settings
from maskmill.pipelines.export import ExportConfig
from maskmill.pipelines.ingest import SOURCES, SourceConfig
from maskmill.pipelines.report import ReportConfig
from maskmill.pipelines.run.cluster import RayConfig
from maskmill.pipelines.run.limits import LimitsConfig
from maskmill.pipelines.run.rounds import GenerateConfig
from maskmill.pipelines.stages.downstream import DownstreamConfig
from maskmill.pipelines.stages.score import ScoreConfig

FROM_SOURCE = "from_source"  # the label space is what the data themselves name
OF_VOC = frozenset({None, "voc", "dataset_diffusion", "drawn", "drawn_groups"})
"""Kinds of source (None: a generator) whose classes are VOC's unless somebody says otherwise. The ids of others mean
what their makers chose: no label space is taken for granted.
"""


class RunConfig(BaseModel):
    """Everything a run depends on. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        description="name of the dataset that comes out; of a run on a source by default the last part of its root"
    )
    run_dir: str = Field(
        description="folder (or fsspec URL) of everything that the run writes; on a source by default runs/NAME"
    )
    label_space: AnySpace | None = Field(
        default=None,
        description="built-in name, YAML file, the space itself, a list of names for ids 1, 2, …, or from_source",
    )
    seed: int = Field(
        default=0,
        ge=-(2**63),
        lt=2**63,
        description="of shuffled tiles, drawn images and chance subsets; each sample's own number comes from this "
        "and its id",
    )
    shard_size: int = Field(default=64, ge=1, le=2**31 - 1, description="samples per shard, the unit of work")
    workers: int = Field(default=1, ge=1, le=1024, description="shards in work at once")
    crf_workers: int | None = Field(
        default=None, ge=1, le=1024, description="processes for dense CRFs; none = one, beside a GPU one a core"
    )
    ray: RayConfig | None = Field(
        default=None, description="Ray cluster that flows map shards over; none = threads of one process"
    )
    source: SourceConfig | None = Field(default=None, description="pairs that exist: where to ingest them from")
    generate: GenerateConfig | None = Field(default=None, description="pairs to make: with what, and how many")
    score: ScoreConfig = Field(default=SdsConfig(), description="how samples are scored")
    dedup: DedupConfig = Field(default=DedupConfig(), description="how near-duplicates are searched")
    select: SelectConfig = Field(default=SelectConfig(), description="how scores become decisions")
    downstream: DownstreamConfig | None = Field(
        default=None, description="train on what was kept, and on other subsets"
    )
    export: tuple[ExportConfig, ...] = Field(
        default=(), description="formats in which the kept samples leave, each with its options"
    )
    report: ReportConfig = Field(default=ReportConfig(), description="what the report shows")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="what ends the run; changes no result")
    quarantine: bool = Field(
        default=False, description="keep the files of what ingest turns away in RUN/quarantine; changes no result"
    )
    stages: dict[str, dict[str, Any]] = Field(default={}, description="further stages by name, each with its options")

    @model_serializer(mode="wrap")
    def _without_empty_stages(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs that leave the newer keys alone keep the hashes that they have always had."""
        dumped: dict[str, Any] = dump(self)
        later = ("stages", "quarantine", "crf_workers", "ray")
        return {key: value for key, value in dumped.items() if key not in later or value}

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """A run that names neither itself nor its folder is called after its source; ids have a meaning of their own
        only in sources that are made for one label space.
        """
        if not isinstance(given, Mapping):
            return given
        raw, source = dict(given), given.get("source")
        kind = source.get("kind") if isinstance(source, Mapping) else getattr(source, "kind", None)
        root = source.get("root") if isinstance(source, Mapping) else getattr(source, "root", None)
        if raw.get("label_space") is None and kind in OF_VOC:
            raw["label_space"] = "voc"
        if root:
            raw.setdefault("name", _name_of(str(root)))
            raw.setdefault("run_dir", f"runs/{_name_of(str(root))}")
        return raw

    @field_validator("run_dir")
    @classmethod
    def _a_folder(cls, run_dir: str) -> str:
        if not run_dir.strip() or not run_dir.strip().strip("/"):
            raise ValueError(f"expected a folder of its own for the run, found {run_dir!r}; name one, e.g. runs/mine")
        if "\0" in run_dir:
            raise ValueError("expected a path, found one with a NUL")
        return run_dir

    @model_validator(mode="after")
    def _sources_lie_elsewhere(self) -> "RunConfig":
        tested = None if self.downstream is None else self.downstream.test
        for key, source in (("source", self.source), ("downstream.test", tested)):
            if source is not None and "\0" in source.root:
                raise ValueError(f"{key}.root: expected a path, found a NUL in {source.root!r}")
            if source is not None and source.root and _inside(source.root, self.run_dir):
                fix = "copy the data elsewhere, or name another run_dir"
                raise ValueError(
                    f"{key}.root {source.root} lies in run_dir {self.run_dir}, where the run writes; {fix}"
                )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> "RunConfig":
        if self.label_space == FROM_SOURCE and self.source is None:
            raise ValueError(
                "label_space: from_source needs a `source`; name a label space for pairs that are generated"
            )
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
        """The label space itself.

        Raises:
            ConfigError: none is given, and the source's ids alone say nothing.
        """
        if self.label_space == FROM_SOURCE and self.source is not None:
            return _own_space(self.source.kind, self.source.model_dump_json())
        if self.label_space is None:
            raise ConfigError(
                "label_space: not given; `maskmill plan` shows which ids the masks hold and what to say. "
                "Where the data name their classes themselves: label_space: from_source"
            )
        return load_label_space(self.label_space) if isinstance(self.label_space, str) else self.label_space


@lru_cache(maxsize=8)
def _own_space(kind: str, options: str) -> LabelSpace:
    """The label space that a source's data name, read once a process."""
    return SOURCES.load(kind).model_validate_json(options).own_space()


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


def _name_of(root: str) -> str:
    """A word for a place: the last part of its path."""
    last = (root if "://" in root else str(Path(root).absolute())).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "mine"
