"""What a person may say to a flow when it starts: Prefect's page shows a typed form field for each."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class CurateParameters(BaseModel):
    """Parameters of `curate-synthetic`: a config, and what to change in it for this run."""

    model_config = ConfigDict(extra="forbid")

    config: str = Field(default="demo", description="YAML config, or the name of a preset in configs/")
    run_dir: str | None = Field(default=None, description="folder of the run; empty: as the config says")
    source_root: str | None = Field(default=None, description="where the pairs lie; empty: as the config says")
    classes: list[str] = Field(
        default_factory=list, description="what ids 1, 2, … of the masks show; empty: as the config says"
    )
    min_score: float | None = Field(default=None, description="samples whose mask fits less well are turned away")
    rho: float | None = Field(default=None, ge=0, le=1, description="best share of each class to keep")
    near_duplicates: Literal["best", "cluster", "keep"] | None = Field(default=None, description="what becomes of them")
    workers: int | None = Field(default=None, ge=1, description="shards in work at once")
    overrides: dict[str, Any] = Field(default_factory=dict, description='any other key, e.g. {"select.min_score": 0.2}')
    ray_address: str | None = Field(default=None, description="Ray cluster to map shards on; threads where empty")

    @property
    def changes(self) -> dict[str, Any]:
        """All fields as dotted keys; what is empty changes nothing."""
        named: dict[str, Any] = {"run_dir": self.run_dir, "source.root": self.source_root, "workers": self.workers}
        named |= {"ray.address": self.ray_address}
        named |= {"select.rho": self.rho, "select.near_duplicates": self.near_duplicates}
        named |= {"select.min_score": self.min_score, "label_space": self.classes or None}
        return {**{key: value for key, value in named.items() if value is not None}, **self.overrides}


class ExportParameters(BaseModel):
    """Parameters of `export-dataset`: a run that is done, in which formats, and where to bring them."""

    model_config = ConfigDict(extra="forbid")

    run_dir: str = Field(description="run folder with decisions")
    formats: list[Literal["voc", "coco", "yolo", "webdataset", "hf", "fiftyone"]] = Field(
        default_factory=list, description="empty: as the run's config says"
    )
    push_to: str | None = Field(default=None, description="folder or s3://…; each format goes to a folder of its name")


class LabelParameters(BaseModel):
    """Parameters of `pseudo-label`: a labelling config (labeler, label_space, samples, weak, settings) and a folder."""

    model_config = ConfigDict(extra="forbid")

    config: str = Field(description="YAML file of a labelling run")
    out_dir: str = Field(description="folder for the PseudoLabel shards")
    overrides: list[str] = Field(default_factory=list, description='e.g. ["settings.refine=crf"]')
    workers: int = Field(default=1, ge=1, description="shards in work at once")
    ray_address: str | None = Field(default=None, description="Ray cluster to map shards on; threads where empty")


class BuildParameters(BaseModel):
    """Parameters of `build-segmenter`: a config (train: trainer, label_space, data, settings; test) and a folder."""

    model_config = ConfigDict(extra="forbid")

    config: str = Field(description="YAML file: `train` as for `maskmill train`, and `test` data with true masks")
    out_dir: str = Field(description="folder for run, artifact and evaluation")
    overrides: list[str] = Field(default_factory=list, description='e.g. ["train.settings.steps=2000"]')
