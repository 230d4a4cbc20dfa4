"""Processes that train as one: who takes which batch, what they share, what is refused. Whole trainings by two are in
the conformance of trainers.
"""

import pytest
import torch
from torch import nn

from maskmill.trainers.engine import TrainerConfig
from maskmill.trainers.engine import team as module
from maskmill.trainers.engine.team import Team, train_together


def test_a_team_goes_through_a_source_without_repeats() -> None:
    def source(step: int) -> dict[str, list[str]]:
        return {"sample_id": [str(step)]}

    shares = [Team(rank, 3).share(source) for rank in range(3)]
    seen = [share(step)["sample_id"][0] for step in range(4) for share in shares]
    assert seen == [str(number) for number in range(12)]
    assert Team().share(source) is source


def test_alone_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.MEMBERS, raising=False)
    alone = Team.here()
    assert (alone, alone.writes) == (Team(0, 1), True)
    weight = nn.Parameter(torch.ones(2))
    assert not alone.mean_gradients([weight]), "nobody has a gradient"
    weight.grad = torch.ones(2)
    assert alone.mean_gradients([weight])
    assert alone.from_first(lambda: 7) == 7
    assert alone.means([{"loss": 1.0}]) == [{"loss": 1.0}]
    assert not Team(1, 2).writes


def test_means_are_over_those_who_have_the_number() -> None:
    assert module._mean([{"loss": 1.0, "frames": 4.0}, {"frames": 2.0}]) == {"loss": 1.0, "frames": 3.0}


def test_gradients_travel_in_buckets_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKET", 5)
    sizes, half = [2, 3, 1, 9, 1], torch.float16
    some = [nn.Parameter(torch.zeros(size)) for size in sizes] + [nn.Parameter(torch.zeros(1, dtype=half))]
    assert [[one.numel() for one in bucket] for bucket in module._buckets(some)] == [[2, 3], [1], [9], [1], [1]]


def test_an_epoch_is_shared_among_processes() -> None:
    assert TrainerConfig(epochs=2, batch=4, processes=2).with_steps(16).steps == 4
    assert TrainerConfig(processes=1).fingerprint == TrainerConfig().fingerprint
    assert TrainerConfig(processes=2).fingerprint != TrainerConfig().fingerprint


def test_gpus_that_stay_idle_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    module.warn_of_spare(4, "auto")
    module.warn_of_spare(1, "cpu")
    monkeypatch.setenv("MASKMILL_DEVICE", "cpu")
    module.warn_of_spare(1, "auto")
    assert caplog.text == ""
    monkeypatch.delenv("MASKMILL_DEVICE")
    module.warn_of_spare(1, "auto")
    assert "3 of 4 GPUs stay unused; settings.processes: 4 trains on all" in caplog.text


def test_each_process_needs_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"cuda:1.*expected auto, cpu or cuda with processes: 2"):
        train_together(2, "cuda:1", print)
    with pytest.raises(ValueError, match=r"processes: 2: torch finds 1 GPUs.*processes: 1, or runtime.device: cpu"):
        train_together(2, "auto", print)
