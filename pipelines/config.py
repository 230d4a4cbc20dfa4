"""One YAML file, one run: the config of every stage, checked before anything starts."""

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from curation.dedup import DedupConfig
from curation.sds import SdsConfig
from curation.select import SelectConfig
from data_contracts import LabelSpace, load_label_space
from pipelines.downstream import DownstreamConfig
from pipelines.export import ExportConfig
from pipelines.ingest import SourceConfig
from pipelines.report import ReportConfig
from pipelines.rounds import GenerateConfig

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class ConfigError(ValueError):
    """A run config that cannot be used; says which key, what was expected and what was found."""


class RunConfig(BaseModel):
    """Everything a run depends on. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name of the dataset that comes out")
    run_dir: str = Field(description="folder (or fsspec URL) of everything that the run writes")
    label_space: str | LabelSpace = Field(default="voc", description="built-in name, YAML file, or the space itself")
    seed: int = 0
    shard_size: int = Field(default=64, ge=1, description="samples per shard, the unit of work")
    workers: int = Field(default=1, ge=1, description="shards in work at once")
    source: SourceConfig | None = Field(default=None, description="pairs that exist: where to ingest them from")
    generate: GenerateConfig | None = Field(default=None, description="pairs to make: with what, and how many")
    score: SdsConfig = SdsConfig()
    dedup: DedupConfig = DedupConfig()
    select: SelectConfig = SelectConfig()
    downstream: DownstreamConfig | None = Field(
        default=None, description="train on what was kept, and on other subsets"
    )
    export: tuple[ExportConfig, ...] = ()
    report: ReportConfig = ReportConfig()

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


def load_run_config(path: str, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Read a YAML config; $NAMES in it are environment variables. `extends: other.yaml` (beside it, or a preset's
    name) is read first; `overrides` ({"select.pcs_tau": 0.2}) win.

    Raises:
        ConfigError: no such file or preset, unknown key, value of the wrong kind.
    """
    raw = _read(path)
    for key, value in (overrides or {}).items():
        _set(raw, key.split("."), value)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']} (found {e.get('input')!r:.80})" for e in error.errors()
        ]
        raise ConfigError(f"{path}: this config cannot be used:\n" + "\n".join(lines)) from error


def find_config(path: str) -> Path:
    """A file, or the preset of that name in configs/.

    Raises:
        ConfigError: neither; lists the presets.
    """
    for candidate in (Path(path), CONFIGS / path, CONFIGS / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    presets = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    raise ConfigError(f"{path}: no such config file; presets: {presets}")


def _read(path: str) -> dict[str, Any]:
    found = find_config(path)
    raw = yaml.safe_load(os.path.expandvars(found.read_text(encoding="utf-8")))
    if not isinstance(raw, dict):
        raise ConfigError(f"{found}: expected a mapping of config keys, found {type(raw).__name__}")
    if (parent := raw.pop("extends", None)) is None:
        return raw
    beside = found.parent / str(parent)
    return _merge(_read(str(beside) if beside.is_file() else str(parent)), raw)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        # A source, exporter or space of another kind replaces; anything else is laid over key by key.
        same_kind = (
            isinstance(old, dict) and isinstance(value, dict) and old.get("kind") == value.get("kind", old.get("kind"))
        )
        merged[key] = _merge(old, value) if same_kind and isinstance(old, dict) else value
    return merged


def _set(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
    raw[keys[-1]] = value
