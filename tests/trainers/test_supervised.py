"""The supervised trainer: conformance, losses, and that it learns."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from maskmill.data_contracts import IGNORE, SAMPLE
from maskmill.pipelines.stages.evaluate import EvaluateConfig, evaluate_artifact
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig, PredictConfig, Samples, read_info
from maskmill.trainers.registry import get_trainer, load_artifact
from maskmill.trainers.supervised.losses import Balance, class_weights, cross_entropy, dice_loss
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance
from tests.trainers.two_processes import train_by

SMALL = {"architecture": "fpn", "options": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}}


class TestSupervised(TrainerConformance):
    name = "supervised"
    settings: ClassVar = {
        "segmenter": {**SMALL, "weights": "random"},
        "augment": {"size": 32, "brightness": 0.1},
        "dice": 0.5,
    }


def test_overfits_four_scenes_and_evaluates(tmp_path: Path) -> None:
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 4),))
    settings = {
        "segmenter": {"architecture": "unet", "options": {"decoder_channels": [32, 24, 16, 16, 8]}},
        "augment": {"size": 48, "flip": 0.0},
        "steps": 48,
        "batch": 4,
        "lr": 6e-3,
        "eval_every": 24,
        "runtime": {"threads": 1, "progress": False},
    }
    config = TrainConfig(label_space=shapes.SPACE, data=data, val=data, settings=settings)
    path = train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    metrics = json.loads((tmp_path / "artifact" / "metrics.json").read_text())
    assert [entry["step"] for entry in metrics["history"]] == [23, 47]
    assert metrics["miou"] > 0.75
    assert metrics["iou"].keys() <= {"background", "red box", "green disc", "blue bar"}
    result = evaluate_artifact(EvaluateConfig(artifact=path, data=data, overlays=2), str(tmp_path / "eval"))
    assert result["miou"] == pytest.approx(metrics["miou"], abs=1e-6)
    assert Image.open(tmp_path / "eval" / "overlays.png").size == (3 * 192, 2 * 192)
    tiled = PredictConfig(fit="short", size=48, window=32, scales=(0.75, 1.0), flip=True, overlap=0.5)
    again = evaluate_artifact(
        EvaluateConfig(artifact=path, data=data, predict=tiled, overlays=0), str(tmp_path / "tiled")
    )
    assert float(str(again["miou"])) > 0.5


@pytest.mark.slow
def test_two_processes_learn_as_well_as_one(tmp_path: Path) -> None:
    """Two of `batch: 2` against one of `batch: 4`: the same samples at the same steps."""
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 4),))
    settings = {
        "segmenter": {"architecture": "unet", "options": {"decoder_channels": [32, 24, 16, 16, 8]}},
        "augment": {"size": 48, "flip": 0.0},
        **{"steps": 48, "lr": 6e-3, "eval_every": 24, "runtime": {"threads": 1, "progress": False, "device": "cpu"}},
    }
    found = {}
    for processes in (1, 2):
        wanted = {**settings, "batch": 4 // processes}
        config = TrainConfig(label_space=shapes.SPACE, data=data, val=data, settings=wanted)
        train_by(processes, config, tmp_path / str(processes))
        found[processes] = json.loads((tmp_path / str(processes) / "artifact" / "metrics.json").read_text())["miou"]
    assert found[1] > 0.75
    assert found[2] == pytest.approx(found[1], abs=0.1)


def test_pseudo_labels_replace_truth_and_low_confidence_is_ignored(tmp_path: Path) -> None:
    rows = [shapes.sample_row(number) for number in range(4)]
    samples = shapes.write_rows(tmp_path / "samples", rows, SAMPLE)
    labels = shapes.write_pseudo(tmp_path / "labels", rows, abstain=1)
    data = DataConfig(samples=(samples,), labels=(labels,))
    settings = {
        "segmenter": {**SMALL, "weights": "random"},
        "augment": {"size": 32},
        "steps": 2,
        "batch": 2,
        "min_confidence": 0.9,
        "runtime": {"threads": 1, "progress": False, "log_every": 1},
    }
    config = TrainConfig(label_space=shapes.SPACE, data=data, settings=settings)
    train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses == [0.0, 0.0], "every pixel lies below min_confidence, so nothing may be learnt"
    assert read_info(str(tmp_path / "artifact")).data_counts["samples"] == 4


def test_a_factor_of_0_freezes_the_encoder_and_its_statistics(tmp_path: Path) -> None:
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 4),))
    frozen, learnt = (
        _encoder_state(data, tmp_path / str(factor), {"encoder_lr_factor": factor, "steps": 2, "eval_every": 1})
        for factor in (0.0, 1.0)
    )
    first = _encoder_state(data, tmp_path / "first", {"encoder_lr_factor": 0.0, "steps": 1})
    assert all(torch.equal(frozen[name], first[name]) for name in first)
    assert not any(torch.equal(frozen[name], learnt[name]) for name in first if name.endswith("running_mean"))


def _encoder_state(data: DataConfig, folder: Path, settings: dict[str, object]) -> dict[str, torch.Tensor]:
    """The encoder's weights and statistics after a short training."""
    base = {"segmenter": SMALL, "augment": {"size": 32}, "batch": 2, "runtime": {"threads": 1, "progress": False}}
    config = TrainConfig(label_space=shapes.SPACE, data=data, val=data, settings={**base, **settings})
    state = load_artifact(train(config, str(folder / "run"), str(folder / "artifact"))).model.state_dict()
    return {name: value for name, value in state.items() if name.startswith("encoder.")}


def test_losses_are_deaf_to_ignored_pixels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 6, 6)
    target = torch.randint(0, 4, (2, 6, 6))
    target[:, :3] = IGNORE
    other = logits.clone()
    other[:, :, :3] += torch.randn(2, 4, 3, 6)
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0])
    assert torch.equal(cross_entropy(logits, target, weights), cross_entropy(other, target, weights))
    assert torch.allclose(dice_loss(logits, target), dice_loss(other, target))
    reference = torch.nn.functional.cross_entropy(logits, target, weights, ignore_index=IGNORE)
    assert torch.allclose(cross_entropy(logits, target, weights), reference)
    blank = torch.full_like(target, IGNORE)
    assert cross_entropy(logits, blank, weights) == 0
    assert dice_loss(logits, blank) == 0


def test_dice_equals_its_one_hot_form() -> None:
    torch.manual_seed(1)
    logits, target = torch.randn(3, 5, 7, 6, requires_grad=True), torch.randint(0, 4, (3, 7, 6))
    target[:, :2] = IGNORE
    judged = (target != IGNORE)[:, None]
    p, truth = logits.softmax(1) * judged, torch.nn.functional.one_hot(target.clamp(max=4), 5).movedim(-1, 1) * judged
    dice = 2 * (p * truth).sum((0, 2, 3)) / (p + truth).sum((0, 2, 3))
    reference = 1 - dice[:4].mean()  # class 4 does not occur
    assert torch.allclose(dice_loss(logits, target), reference)
    wanted, found = (torch.autograd.grad(one, logits)[0] for one in (reference, dice_loss(logits, target)))
    assert torch.allclose(found, wanted, atol=1e-7)


def test_dice_is_zero_for_perfect_and_one_for_wrong_labels() -> None:
    target = torch.tensor([[[0, 1], [1, 0]]])
    perfect = 40.0 * torch.nn.functional.one_hot(target, 2).movedim(-1, 1)
    assert dice_loss(perfect, target) < 1e-5
    assert dice_loss(-perfect, target) > 0.999


def test_class_weights_favour_rare_classes(tmp_path: Path) -> None:
    data = Samples.open(DataConfig(samples=(shapes.write_scenes(tmp_path / "s", 6),)), str(tmp_path))
    plain = class_weights(data, 4, "none")
    assert plain is None
    balances: tuple[Balance, ...] = ("sqrt", "median")
    for balance in balances:
        weights = class_weights(data, 4, balance)
        assert weights is not None
        assert weights[0] == weights.min()
        assert weights[3] > weights[1], "bars cover fewer pixels than boxes"


def test_size_that_the_network_cannot_take_is_refused_before_training(tmp_path: Path) -> None:
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 2),))
    settings = {"segmenter": {**SMALL, "weights": "random"}, "augment": {"size": 48}}
    config = TrainConfig(label_space=shapes.SPACE, data=data, settings=settings)
    with pytest.raises(ValueError, match=r"augment.size: expected a multiple of 32 for fpn, found 48; take 64"):
        train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))


def test_registry_names_the_valid_trainers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected one of .*supervised"):
        get_trainer("supervise")
    with pytest.raises(FileNotFoundError, match="train it first"):
        load_artifact(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    data = DataConfig(samples=(shapes.write_scenes(tmp_path / "samples", 2),))
    runtime = {"threads": 1, "progress": False}
    settings = {
        "segmenter": {**SMALL, "weights": "random"},
        "augment": {"size": 32},
        "steps": 1,
        "batch": 2,
        "runtime": runtime,
    }
    config = TrainConfig(label_space=shapes.SPACE, data=data, settings=settings)
    path = train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    file = tmp_path / "artifact" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="expected content"):
        load_artifact(path)
    train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
    labels = load_artifact(path).predict([np.zeros((20, 30, 3), np.uint8)])[0].labels
    assert labels.shape == (20, 30)
