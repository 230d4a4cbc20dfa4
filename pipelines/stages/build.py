"""Pseudo-labels to a trained segmenter and its metrics: train, then evaluate; each part is skipped when it is done."""

import os
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact, is_evaluated
from maskmill.pipelines.stages.train import TrainConfig, plan_job, train
from maskmill.trainers.engine import DataConfig


class BuildConfig(BaseModel):
    """What to train, and what to test the result on. Without `test`, the validation data of `train` serve."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    PRESETS: ClassVar[str] = "build"

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
    return evaluate_artifact(_evaluation(config, config.tested, out_dir), os.path.join(out_dir, "evaluation"))


def build_segmenter(config: BuildConfig, out_dir: str) -> BuildResult:
    """Train and test."""
    return BuildResult(train_step(config, out_dir), evaluate_step(config, out_dir))


def why_build(config: BuildConfig, out_dir: str) -> str | None:
    """Why there is something to train or to test, in words; None when all is done. Loads no model, reads no pixels."""
    from maskmill.trainers.engine import is_finished  # brings torch along

    job = plan_job(config.train, os.path.join(out_dir, "run"), os.path.join(out_dir, "artefact"))
    if not is_finished(job.out_dir, job.fingerprint):
        return "not trained on this data with these settings"
    if config.tested is None:
        return None
    done = is_evaluated(_evaluation(config, config.tested, out_dir), os.path.join(out_dir, "evaluation"))
    return None if done else "not tested yet"


def _evaluation(config: BuildConfig, tested: DataConfig, out_dir: str) -> EvaluateConfig:
    return EvaluateConfig(artifact=os.path.join(out_dir, "artefact"), data=tested, overlays=config.overlays)
