"""Which network goes on: the best of all evaluations, through a kill, into BCP's second phase and the artifact."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.abd import Config, best
from maskmill.trainers.abd.best import Keeper, volume_dice
from maskmill.trainers.abd.train import _active
from maskmill.trainers.engine import DataConfig, Loop, Samples, read_artifact
from tests.trainers import shapes
from tests.trainers.conformance import KilledError
from tests.trainers.test_abd import COMMON

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("scenes")
    return DataConfig(samples=(shapes.write_scenes(folder / "samples", 6, group_size=2),))


def test_dice_of_groups_and_classes_by_hand(scenes: DataConfig, tmp_path: Path) -> None:
    truth = Samples.open(scenes, str(tmp_path)).with_masks()
    masks = [truth.example(position).mask for position in range(len(truth))]
    right = [mask.copy() for mask in masks if mask is not None]
    groups = [truth.example(position).info.group for position in range(len(truth))]
    ids = list(shapes.SPACE.ids)
    shown = {
        g: {c for m, own in zip(right, groups, strict=True) if own == g for c in ids if (m == c).any()} for g in groups
    }
    whole = np.mean([[float(c in classes) for c in ids] for classes in shown.values()])
    assert volume_dice(right, truth, shapes.SPACE) == pytest.approx(whole), "a class that is not there scores 0"
    nothing = [np.zeros_like(mask) for mask in right]
    assert volume_dice(nothing, truth, shapes.SPACE) == 0.0
    one = next(c for c in ids if c in shown[groups[0]])
    part = [m if g == groups[0] else z for m, z, g in zip(right, nothing, groups, strict=True)]
    wrong = [np.where(m == one, 0, m).astype(np.uint8) for m in part]
    share = len(shown[groups[0]]) / (len(shown) * len(ids))
    assert volume_dice(part, truth, shapes.SPACE) == pytest.approx(share)
    assert volume_dice(wrong, truth, shapes.SPACE) == pytest.approx(share - 1 / (len(shown) * len(ids)))


def test_the_highest_is_kept_with_its_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    first = nn.Linear(2, 1)
    own = torch.optim.SGD(first.parameters(), lr=1.0, momentum=0.9)
    keeper = Keeper(first, lambda network: torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9))
    loop: Any = SimpleNamespace(memory={})
    scores = iter([0.0, 0.4, 0.7, 0.7, 0.2])
    monkeypatch.setattr(best, "measure", lambda *_: {"dice": next(scores), "miou": 0.5})
    states = []
    for _ in range(5):
        first(torch.ones(1, 2)).sum().backward()
        own.step()
        states.append(({k: v.clone() for k, v in first.state_dict().items()}, momentum(own)))
        assert keeper.score(loop, own, None, None, None)["miou"] == 0.5  # type: ignore[arg-type]
    keeper.give_back(loop, own)
    assert all(torch.equal(first.state_dict()[k], states[2][0][k]) for k in states[2][0]), "the first of equals"
    assert torch.equal(momentum(own), states[2][1])
    assert loop.memory == {}, "a new race"
    keeper.give_back(loop, own)
    assert torch.equal(momentum(own), states[2][1])


def momentum(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    state = next(iter(optimizer.state.values()))
    found: torch.Tensor = state["momentum_buffer"].clone()
    return found


SETTINGS: dict[str, Any] = {
    **COMMON,
    "host": "bcp",
    "unlabelled_batch": 2,
    "batch": 2,
    "steps": 6,
    "pretrain_share": 0.5,
    "optimizer": "sgd",
    "lr": 0.05,
    "precision": "fp32",
    "keep_best": True,
    "eval_every": 1,
    "teacher_start": "student",
}


def run(folder: Path, data: DataConfig, monkeypatch: pytest.MonkeyPatch, dice: list[float]) -> str:
    """Train with evaluations that find these Dice, step by step."""
    runtime = {"threads": 1, "progress": False, "device": "cpu", "save_every": 1, "log_every": 1}
    config = TrainConfig(
        trainer="abd", label_space=shapes.SPACE, data=data, val=data, settings={**SETTINGS, "runtime": runtime}
    )
    steps: list[int] = []
    score = Keeper.score

    def noted(self: Keeper, loop: Loop, *rest: Any) -> dict[str, Any]:
        steps.append(loop.step)
        return score(self, loop, *rest)

    monkeypatch.setattr(Keeper, "score", noted)
    monkeypatch.setattr(best, "measure", lambda *_: {"dice": dice[steps[-1]]})
    try:
        return train(config, str(folder / "run"), str(folder / "artifact"))
    finally:
        monkeypatch.setattr(Keeper, "score", score)


def test_both_phases_go_on_from_their_best(tmp_path: Path, scenes: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best after steps 1 (of 0 to 2) and 4 (of 3 to 5); the same when the run is killed on the way."""
    import importlib

    module = importlib.import_module("maskmill.trainers.abd.train")
    seen: dict[str, Any] = {}
    begin, step_of = module.begin_self_training, module.step_of

    def begun(config: Any, networks: Any, optimizers: Any) -> None:
        begin(config, networks, optimizers)
        seen["begun"] = [{k: v.clone() for k, v in n.state_dict().items()} for n in vars(networks).values()]
        seen["momentum"] = [momentum(optimizers[name]) for name in ("first", "second")]

    def host(config: Any, networks: Any, loop: Any, background: int) -> Any:
        step = step_of(config, networks, loop, background)

        def noted(number: int, batch: Any) -> Any:
            seen[f"before {number}"] = {k: v.clone() for k, v in networks.first.state_dict().items()}
            if number == seen.get("dies"):
                seen["dies"] = None
                raise KilledError
            return step(number, batch)

        return noted

    monkeypatch.setattr(module, "begin_self_training", begun)
    monkeypatch.setattr(module, "step_of", host)
    dice = [0.2, 0.6, 0.4, 0.1, 0.3, 0.2]
    plain = read_artifact(run(tmp_path / "a", scenes, monkeypatch, dice)).tensors
    for state in seen["begun"]:
        assert all(torch.equal(state[k], v) for k, v in seen["before 2"].items()), "network 1, 2 and the teacher"
    assert torch.equal(*seen["momentum"])
    first = {k.removeprefix("module/first/"): v for k, v in plain.items() if k.startswith("module/first/")}
    assert all(torch.equal(first[k], v) for k, v in seen["before 5"].items())
    assert {k.split("/")[1] for k in plain} == {"first", "second"}, "neither the teacher nor the copy"
    for at in (2, 5):
        seen["dies"] = at
        with pytest.raises(KilledError):
            run(tmp_path / str(at), scenes, monkeypatch, dice)
        again = read_artifact(run(tmp_path / str(at), scenes, monkeypatch, dice)).tensors
        assert all(torch.equal(again[k], v) for k, v in plain.items())


def test_without_validation_it_is_the_last(tmp_path: Path, scenes: DataConfig) -> None:
    runtime = {"threads": 1, "progress": False, "device": "cpu"}
    settings = {**SETTINGS, "host": "cross_teaching", "pretrain_share": 0.0, "steps": 1, "runtime": runtime}
    config = TrainConfig(trainer="abd", label_space=shapes.SPACE, data=scenes, settings=settings)
    assert read_artifact(train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))).tensors


def test_which_optimisers_step() -> None:
    """The copy of the best never does; a student that will be copied over stands still in the first phase."""
    both, one = ("first", "second"), ("first",)
    bcp = Config.model_validate(SETTINGS)
    assert [_active(bcp, step) for step in (0, 2, 3, 5)] == [one, one, both, both]
    crossed = Config.model_validate({**SETTINGS, "host": "cross_teaching", "pretrain_share": 0.5})
    assert [_active(crossed, step) for step in (0, 5)] == [both, both]
    alone = Config.model_validate({**SETTINGS, "host": "supervised", "pretrain_share": 0.0})
    assert _active(alone, 0) == one
