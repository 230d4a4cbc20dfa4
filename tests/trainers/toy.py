"""A trainer small enough to kill: a student with dropout and batch norm, its EMA teacher, two optimisers and a memory.

`python -m tests.trainers.toy SAMPLES FOLDER STEPS SECONDS` trains it with so many seconds of sleep a step.
"""

import sys
import time
from typing import Any

import torch
from torch import nn

from maskmill.trainers.engine import (
    Artifact,
    AugmentConfig,
    DataConfig,
    Job,
    Loop,
    PredictConfig,
    SampleSource,
    SegmentationPredictor,
    SegmentationView,
    TrainerConfig,
    make_optimizer,
    save_artifact,
)
from maskmill.trainers.engine.batches import IMAGENET_MEAN, IMAGENET_STD

VERSION = 1


class Config(TrainerConfig):
    width: int = 8
    pause: float = 0.0
    augment: AugmentConfig = AugmentConfig(size=32, scale=(0.8, 1.2), brightness=0.2)


def stamps(config: Config) -> tuple[str, ...]:
    return ()


def build(width: int, classes: int) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(0.3))
    return nn.Sequential(body, nn.Conv2d(width, classes, 1))


def train(config: Config, job: Job) -> str:
    torch.manual_seed(config.seed)
    student, teacher = build(config.width, job.space.size), build(config.width, job.space.size)
    teacher.load_state_dict(student.state_dict())
    optimizers = {
        "body": make_optimizer(config, student[0].parameters()),
        "head": make_optimizer(config, student[1].parameters()),
    }
    view = SegmentationView(config.augment, IMAGENET_MEAN, IMAGENET_STD, job.space.size)
    source = SampleSource(job.data, view, config.batch, config.seed)
    modules = {"student": student, "teacher": teacher}
    loop = Loop(config, job, source, modules=modules, optimizers=optimizers, memory={"coins": 0})
    for _, batch in loop:
        loop.memory["coins"] += int(loop.rng.random() < 0.5)
        loss = nn.functional.cross_entropy(student(batch["image"]), batch["mask"], ignore_index=255)
        loop.update(loss)
        with torch.no_grad():
            for slow, fast in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
                slow.copy_(0.9 * slow + 0.1 * fast)
        loop.log(loss=loss)
        time.sleep(config.pause)
    return save_artifact(
        job,
        config,
        modules=modules,
        model={"width": config.width, "coins": loop.memory["coins"]},
        metrics=loop.metrics,
        curves=loop.curves(),
        predict=PredictConfig(multiple=1),
    )


def load(artifact: Artifact, device: torch.device) -> SegmentationPredictor:
    info = artifact.info
    student = build(info.model["width"], info.label_space.size)
    artifact.load(student=student)
    return SegmentationPredictor(student.to(device), info.label_space, info.mean, info.std, info.predict, device)


def run_config(samples: str, steps: int, pause: float = 0.0, **settings: Any) -> Any:
    """A TrainConfig for the toy."""
    from maskmill.pipelines.stages.train import TrainConfig
    from tests.trainers.shapes import SPACE

    runtime = {"device": "cpu", "threads": 1, "save_every": 3, "log_every": 2, "progress": False}
    common = {"steps": steps, "batch": 2, "lr": 0.01, "precision": "fp32", "pause": pause, "runtime": runtime}
    return TrainConfig(
        trainer="toy", label_space=SPACE, data=DataConfig(samples=(samples,)), settings={**common, **settings}
    )


if __name__ == "__main__":
    from maskmill.pipelines.stages.train import train as run
    from maskmill.trainers.registry import TRAINERS

    TRAINERS["toy"] = "tests.trainers.toy"
    run(run_config(sys.argv[1], int(sys.argv[3]), float(sys.argv[4])), f"{sys.argv[2]}/run", f"{sys.argv[2]}/artifact")
