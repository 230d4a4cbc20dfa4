"""Pseudo-labels to a trained segmenter and its metrics: train, then evaluate; each part is skipped when it is done."""

import os
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import read_bytes
from maskmill.data_contracts.texts import parse_json
from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact, is_evaluated
from maskmill.pipelines.stages.train import TrainConfig, plan_job, train
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.registry import is_measured


class BuildConfig(BaseModel):
    """What to train, and what to test the result on. Without `test`, the validation data of `train` serve."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    PRESETS: ClassVar[str] = "build"

    train: TrainConfig = Field(description="what to train")
    test: DataConfig | None = Field(
        default=None, description="samples with true masks to test on; null = the validation data of `train`"
    )
    overlays: int = Field(
        default=8, ge=0, description="samples on the sheet of overlays: the first by id; 0 = no sheet"
    )

    @property
    def tested(self) -> DataConfig | None:
        return self.test or self.train.val


@dataclass(frozen=True)
class BuildResult:
    """Where the artifact lies, and its metrics on the test data (none without such data)."""

    artifact: str
    metrics: dict[str, object]

    @property
    def alarms(self) -> tuple[str, ...]:
        """What is wrong with the network, as training found it."""
        from maskmill.trainers.engine.artifact import found_at  # brings torch along

        found = parse_json(read_bytes(os.path.join(found_at(self.artifact), "metrics.json")))
        return tuple(found.get("alarms", ()))


def train_step(config: BuildConfig, out_dir: str) -> str:
    """Train into OUT/artifact with the working files in OUT/run; returns the artifact's folder."""
    return train(config.train, os.path.join(out_dir, "run"), os.path.join(out_dir, "artifact"))


def evaluate_step(config: BuildConfig, out_dir: str) -> dict[str, object]:
    """Metrics and overlays of OUT/artifact in OUT/evaluation; {} without test data, and for trainers whose artifacts
    cannot be measured.
    """
    if not _is_tested(config):
        return {}
    assert config.tested is not None
    return evaluate_artifact(_evaluation(config, config.tested, out_dir), os.path.join(out_dir, "evaluation"))


def build_segmenter(config: BuildConfig, out_dir: str) -> BuildResult:
    """Train and test."""
    return BuildResult(train_step(config, out_dir), evaluate_step(config, out_dir))


def why_build(config: BuildConfig, out_dir: str) -> str | None:
    """Why there is something to train or to test, in words; None when all is done. Loads no model, reads no pixels."""
    from maskmill.trainers.engine import is_finished  # brings torch along

    job = plan_job(config.train, os.path.join(out_dir, "run"), os.path.join(out_dir, "artifact"))
    if not is_finished(job.out_dir, job.fingerprint):
        return "not trained on this data with these settings"
    if config.tested is None or not is_measured(config.train.trainer):
        return None
    done = is_evaluated(_evaluation(config, config.tested, out_dir), os.path.join(out_dir, "evaluation"))
    return None if done else "not tested yet"


def _is_tested(config: BuildConfig) -> bool:
    """Whether there is something to test on, and something to test. Data for validation alone say nothing of a trainer
    whose artifacts cannot be measured; data to test it on are an error that evaluation names.
    """
    return config.test is not None or (config.tested is not None and is_measured(config.train.trainer))


def _evaluation(config: BuildConfig, tested: DataConfig, out_dir: str) -> EvaluateConfig:
    return EvaluateConfig(artifact=os.path.join(out_dir, "artifact"), data=tested, overlays=config.overlays)
