"""A network that answers one thing alone, or a loss that does not move, is said; what has no masks is not measured."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from maskmill.data_contracts import Uint8Array
from maskmill.labelers.a2gnn import Config as A2gnnConfig
from maskmill.pipelines.stages.build import BuildConfig, build_segmenter, why_build
from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, Prediction, Samples, read_artifact
from maskmill.trainers.engine.health import one_answer, still_loss
from maskmill.trainers.few_shot import Config
from maskmill.trainers.ftmu.state import _load_all
from maskmill.trainers.registry import TRAINERS
from maskmill.trainers.scwssod import evaluate
from tests.trainers import shapes, toy
from tests.trainers.test_dcfm import TINY as DCFM
from tests.trainers.test_few_shot import SMALL


def maps(*values: int) -> list[Uint8Array]:
    return [np.full((4, 4), value, np.uint8) for value in values]


def test_one_answer_for_all_is_said() -> None:
    truths = maps(0, 1)
    assert one_answer(maps(0, 1), truths, shapes.SPACE) is None
    found = one_answer(maps(0, 0), truths, shapes.SPACE)
    assert found is not None
    assert "predicts background everywhere on 2 of its own training samples" in found
    assert one_answer(maps(0, 0), maps(0, 255), shapes.SPACE) is None, "nothing else was asked for"
    only = one_answer(maps(1, 1), truths, shapes.SPACE)
    assert only is not None
    assert shapes.SPACE.by_id[1].name in only


@pytest.mark.parametrize(
    ("losses", "still"),
    [
        ([0.693] * 40, True),
        ([0.693] * 19, False),
        ([1.0, *[0.693] * 38, 0.2], False),
        ([float(x) for x in np.linspace(1, 0, 40)], False),
        ([0.0] * 40, True),
    ],
)
def test_a_loss_that_does_not_move_is_said(losses: list[float], still: bool) -> None:
    found = still_loss([{"step": step, "loss": loss} for step, loss in enumerate(losses)])
    assert (found is not None) is still
    assert still_loss([{"step": 0}]) is None


def test_a_collapsed_network_stands_in_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAINERS, "toy", "tests.trainers.toy")
    samples = shapes.write_scenes(tmp_path / "samples", 5)

    class Blind(nn.Module):
        """All background, whatever it is shown."""

        def __init__(self, student: nn.Module) -> None:
            super().__init__()
            self.student = student

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.student(pixels) * 0
            logits[:, 0] += 1
            return logits

    load = toy.load

    def blind(artifact: Any, device: torch.device) -> Any:
        predictor = load(artifact, device)
        object.__setattr__(predictor, "model", Blind(predictor.model))
        return predictor

    monkeypatch.setattr(toy, "load", blind)
    path = train(toy.run_config(samples, 2), str(tmp_path / "run"), str(tmp_path / "artifact"))
    (alarm,) = read_artifact(path).metrics["alarms"]
    assert "collapsed" in alarm
    assert read_artifact(path).info.sums, "the alarm is part of what is sealed"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return DataConfig(samples=(shapes.write_scenes(tmp_path_factory.mktemp("scenes"), 12),))


def few_shot(scenes: DataConfig) -> BuildConfig:
    runtime = {"threads": 1, "progress": False, "log_every": 1, "device": "cpu"}
    settings = {**SMALL, "steps": 2, "batch": 2, "precision": "fp32", "runtime": runtime}
    wanted = TrainConfig(trainer="few_shot", label_space=shapes.SPACE, data=scenes, val=scenes, settings=settings)
    return BuildConfig(train=wanted)


def test_few_shot_is_measured_on_episodes(tmp_path: Path, scenes: DataConfig) -> None:
    config = few_shot(scenes)
    built = build_segmenter(config, str(tmp_path))
    assert set(built.metrics) >= {"miou", "fbiou", "iou", "prompts"}
    assert built.metrics["miou"] == pytest.approx(read_artifact(built.artifact).metrics["miou"]), "as in training"
    assert why_build(config, str(tmp_path)) is None
    again = evaluate_artifact(EvaluateConfig(artifact=built.artifact, data=scenes), str(tmp_path / "evaluation"))
    assert json.loads(json.dumps(again))["miou"] == built.metrics["miou"]


MEASURES = {"s", "max_f", "mean_f", "adaptive_f", "max_e", "mean_e", "adaptive_e", "mae", "images"}


def test_co_saliency_is_measured_as_the_field_does(tmp_path: Path) -> None:
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 4, group_size=2),))
    runtime = {"threads": 1, "progress": False, "device": "cpu"}
    settings = {"steps": 1, "batch": 2, "precision": "fp32", "runtime": runtime, **DCFM}
    wanted = TrainConfig(trainer="dcfm", label_space=shapes.SPACE, data=data, val=data, settings=settings)
    built = build_segmenter(BuildConfig(train=wanted), str(tmp_path / "out"))
    assert set(built.metrics) >= MEASURES | {"miou"}
    assert (tmp_path / "out/evaluation/overlays.png").is_file()


def test_saliency_is_measured_as_the_field_does(tmp_path: Path, scenes: DataConfig) -> None:
    samples = Samples.open(scenes, str(tmp_path))

    class Knows:
        """Answers each picture with the truth."""

        space = shapes.SPACE

        def __init__(self) -> None:
            examples = [samples.example(position) for position in range(len(samples))]
            self.truth = {example.image.tobytes(): example.mask for example in examples}

        def predict(self, images: list[Uint8Array]) -> list[Prediction]:
            sure = [np.where(self.truth[image.tobytes()] > 0, 50.0, -50.0).astype(np.float32) for image in images]
            return [Prediction(np.stack([-one, one])) for one in sure]

    found = evaluate(Knows(), samples, SimpleNamespace(label_space=shapes.SPACE))  # type: ignore[arg-type]
    assert set(found) == MEASURES
    assert found["mae"] == pytest.approx(0, abs=1e-6)
    assert found["max_f"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("priors", ["concat", "mean"])
def test_shots_that_the_network_cannot_take_are_refused(priors: str) -> None:
    given = {"prior": "pi_clip", "priors": {"shots": priors}, "shots": 1, "test_shots": 3}
    if priors == "mean":
        assert Config.model_validate(given).test_shots == 3
        return
    with pytest.raises(ValidationError, match=r"test_shots: .* set test_shots: 1, or priors: \{shots: mean\}"):
        Config.model_validate(given)


def test_what_gives_no_masks_is_not_measured(tmp_path: Path, scenes: DataConfig) -> None:
    runtime = {"threads": 1, "progress": False, "device": "cpu"}
    settings = {"steps": 1, "batch": 1, "views": 1, "weights": "random", "runtime": runtime}
    small = {**settings, "augment": {"size": 32}, "precision": "fp32"}
    wanted = TrainConfig(trainer="affinity", label_space=shapes.SPACE, data=scenes, val=scenes, settings=small)
    built = build_segmenter(BuildConfig(train=wanted), str(tmp_path))
    assert built.metrics == {}
    assert why_build(BuildConfig(train=wanted), str(tmp_path)) is None
    with pytest.raises(ValueError, match="an artifact of affinity gives no masks"):
        evaluate_artifact(EvaluateConfig(artifact=built.artifact, data=scenes), str(tmp_path / "evaluation"))


def test_dense_attention_has_no_other_gate() -> None:
    assert A2gnnConfig(attention="dense", gate="released").attention == "dense"
    with pytest.raises(ValidationError, match="attention: dense knows the released gate alone"):
        A2gnnConfig(attention="dense", gate="centred")


def test_trunk_weights_must_fit() -> None:
    trunk = nn.Linear(2, 3)
    _load_all(trunk, {"weight": torch.ones(3, 2), "bias": torch.zeros(3), "head.weight": torch.ones(1)}, "here")
    assert trunk.weight.eq(1).all()
    with pytest.raises(ValueError, match=r"here: expected 2 tensors of this model, found 1 that fit among 2 \(weight"):
        _load_all(trunk, {"weight": torch.ones(2, 2), "bias": torch.zeros(3)}, "here")
