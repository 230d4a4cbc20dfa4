"""Train any registered trainer on contract shards; a run whose artifact is there already is skipped."""

import logging
import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import LabelSpace, content_id, load_label_space, sweep_tree, where_writable
from maskmill.data_contracts.labels import AnySpace
from maskmill.pipelines.core.lock import lock
from maskmill.pipelines.core.settings import check_inner
from maskmill.pipelines.core.working import working_folder
from maskmill.trainers.engine import DataConfig, Job, Samples, TrainerConfig
from maskmill.trainers.registry import get_trainer, look_at

logger = logging.getLogger("maskmill.train")


class TrainConfig(BaseModel):
    """One training run: who trains, on what, with which settings (those of the trainer's own config)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    PRESETS: ClassVar[str] = "train"

    trainer: str = Field(default="supervised", description="name of the trainer")
    label_space: AnySpace = Field(
        default="voc", description="built-in name, YAML file, a list of names for ids 1, 2, …, or the space itself"
    )
    data: DataConfig = Field(description="samples and labels to train on")
    val: DataConfig | None = Field(
        default=None, description="samples with true masks to evaluate on; null = no metrics"
    )
    settings: dict[str, Any] = Field(default={}, description="options of the trainer")

    @property
    def space(self) -> LabelSpace:
        return load_label_space(self.label_space) if isinstance(self.label_space, str) else self.label_space

    def trainer_config(self) -> TrainerConfig:
        """The settings as the trainer's own config.

        Raises:
            ValueError: unknown trainer; ConfigError: a setting that it does not have, or a value that does not fit.
        """
        return check_inner(self.settings, get_trainer(self.trainer).Config, "settings", f"trainer {self.trainer}")


def plan_job(config: TrainConfig, run_dir: str, out_dir: str) -> Job:
    """The job with its fingerprint. Reads ids and footers, no pixels."""
    trainer, settings = get_trainer(config.trainer), config.trainer_config()
    run_dir = working_folder(run_dir)
    cache, memory = os.path.join(run_dir, "cache"), settings.runtime.memory_mb
    data = Samples.open(config.data, cache, memory)
    val = None if config.val is None else Samples.open(config.val, cache, memory)
    fingerprint = content_id(
        config.trainer,
        str(trainer.VERSION),
        settings.fingerprint,
        config.space.fingerprint,
        data.fingerprint,
        None if val is None else val.fingerprint,
        *trainer.stamps(settings),
    )
    return Job(config.trainer, fingerprint, config.space, data, val, run_dir, out_dir)


def train(config: TrainConfig, run_dir: str, out_dir: str) -> str:
    """Train, or skip, or go on where a killed run stopped; returns the artifact folder.

    `run_dir` keeps the checkpoint while training and metrics.jsonl (for a URL, in a local folder of its own); `out_dir`
    gets config.json, model.safetensors, metrics.json and curves.png. The checkpoint goes once the artifact is complete.

    Raises:
        FileNotFoundError, ContractError: data that is not there or breaks its contract.
        ValueError: unknown trainer or setting, or no usable sample.
        RunLockedError: another process trains here.
    """
    from maskmill.trainers.engine import is_finished  # brings torch along

    with ExitStack() as held:
        for folder in dict.fromkeys((working_folder(run_dir), out_dir)):
            held.enter_context(lock(folder, mark=False))
            sweep_tree(folder)
        job = plan_job(config, run_dir, out_dir)
        if is_finished(out_dir, job.fingerprint):
            logger.info("%s: already trained with this config on this data", out_dir)
        else:
            _start(config, job)
        with where_writable(), suppress(FileNotFoundError):
            os.unlink(os.path.join(job.run_dir, "checkpoint.safetensors"))
    return out_dir


def _start(config: TrainConfig, job: Job) -> None:
    """Train in this process, or in several that it starts."""
    from maskmill.trainers.engine.team import train_together, warn_of_spare

    settings = config.trainer_config()
    warn_of_spare(settings.processes, settings.runtime.device)
    if settings.processes == 1:
        _train(config, job)
    else:
        train_together(settings.processes, settings.runtime.device, _train_here, config, job.run_dir, job.out_dir)


def _train_here(config: TrainConfig, run_dir: str, out_dir: str) -> None:
    """One of several processes; the one that started them holds the folders."""
    _train(config, plan_job(config, run_dir, out_dir))


def _train(config: TrainConfig, job: Job) -> None:
    settings = config.trainer_config().with_steps(len(job.data), len(job.data.groups))
    device = settings.runtime.device
    looked = replace(job, look=lambda artifact: look_at(artifact, job.data, device))
    get_trainer(config.trainer).train(settings, looked)
