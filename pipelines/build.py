"""Pseudo-labels to a trained segmenter and its metrics: train, then evaluate; each part is skipped when it is done."""

import os
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from pipelines.evaluate import EvaluateConfig, evaluate_artifact
from pipelines.train import TrainConfig, train
from trainers.engine import DataConfig


class BuildConfig(BaseModel):
    """What to train, and what to test the result on. Without `test`, the validation data of `train` serve."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: TrainConfig
    test: DataConfig | None = None
    overlays: int = Field(default=8, ge=0)

    @property
    def tested(self) -> DataConfig | None:
        return self.test or self.train.val


@dataclass(frozen=True)
class BuildResult:
    """Where the artefact lies, and its metrics on the test data (none without such data)."""

    artifact: str
    metrics: dict[str, object]


def train_step(config: BuildConfig, out_dir: str) -> str:
    """Train into OUT/artefact with the working files in OUT/run; returns the artefact's folder."""
    return train(config.train, os.path.join(out_dir, "run"), os.path.join(out_dir, "artefact"))


def evaluate_step(config: BuildConfig, out_dir: str) -> dict[str, object]:
    """Metrics and overlays of OUT/artefact in OUT/evaluation; {} without test data."""
    if config.tested is None:
        return {}
    wanted = EvaluateConfig(artifact=os.path.join(out_dir, "artefact"), data=config.tested, overlays=config.overlays)
    return evaluate_artifact(wanted, os.path.join(out_dir, "evaluation"))


def build_segmenter(config: BuildConfig, out_dir: str) -> BuildResult:
    """Train and test."""
    return BuildResult(train_step(config, out_dir), evaluate_step(config, out_dir))
