"""One place says which device models run on."""

import pytest
import torch

from maskmill.generators.loading import pick_device as for_generators
from maskmill.trainers.engine import pick_device as for_trainers
from maskmill.vision.device import AUTO, pick_device


def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTO, "meta")
    assert pick_device() == for_trainers("auto") == torch.device(for_generators("auto")) == torch.device("meta")
    assert pick_device("cpu") == torch.device("cpu"), "a name that is given counts more"


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AUTO, raising=False)
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device().type == name


@pytest.mark.parametrize(("name", "said"), [("gpu", "expected auto, cpu"), ("cuda:99", "GPUs here")])
def test_what_is_no_device_here_is_told(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=said):
        pick_device(name)
    monkeypatch.setenv(AUTO, name)
    with pytest.raises(ValueError, match=f"{AUTO}='{name}': .*{said}"):
        pick_device()
