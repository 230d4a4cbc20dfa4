"""The trunk of A2GNN's release: features, names of weights, and what learns, against its own."""

import numpy as np
import pytest
import torch
from torch import nn

from maskmill.trainers.affinity.model import AffinityNet, freeze_as_released
from maskmill.vision import resnet38
from maskmill.vision.resnet38 import STEM, ResNet38, own_name
from maskmill.vision.segmenters import build_encoder, encoder_normalisation
from maskmill.vision.weights import WeightsError
from tests.golden import assert_close, fill_large, golden, uniform

RELEASED = golden("a2gnn", "resnet38")
SMALL = STEM // 16

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net() -> ResNet38:
    """As the release was: every width divided by 16, weights by formula."""
    made = ResNet38((2, 3, 4), SMALL).eval()
    made.load_state_dict(fill_large(made.state_dict(), 0.8))
    return made


def test_features_are_the_releases(net: ResNet38) -> None:
    image = torch.from_numpy(uniform("resnet38 image", 2, 3, 40, 56)).float() * 2
    with torch.no_grad():
        levels = net(image)
    assert [level.shape[1] for level in levels] == net.feature_info.channels()
    for name, level in zip(("conv4", "conv5", "conv6"), levels, strict=True):
        assert_close(level, RELEASED[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_weights_have_the_releases_names_and_mxnets_lead_to_them(net: ResNet38) -> None:
    names = [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]
    assert sorted(names) == sorted(RELEASED["names"].tolist())
    assert [own_name(str(key)) for key in RELEASED["mxnet"]] == RELEASED["names"].tolist()
    assert [own_name(key) for key in names] == names, "what is named as here stays"


def test_what_learns_and_drops_is_what_did_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet38, "STEM", SMALL)
    model = AffinityNet("resnet38d", "random", (4, 8, 16), 3, frozen=False, norms=False)
    assert model.channels == (32, 64, 256)
    freeze_as_released(model.encoder, "resnet38d")
    model.train()
    learnt = [name for name, p in model.encoder.named_parameters() if p.requires_grad]
    assert sorted(learnt) == sorted(RELEASED["learnt"].tolist())
    parts = dict(model.encoder.named_modules())
    dropping = [name for name, part in parts.items() if isinstance(part, nn.Dropout2d) and part.training]
    assert dropping == RELEASED["dropping"].tolist()
    assert not any(part.training for part in parts.values() if isinstance(part, nn.BatchNorm2d))
    assert not any(part.training for part in model.eval().modules())


def test_files_of_either_naming_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: object, net: ResNet38) -> None:
    monkeypatch.setattr(resnet38, "STEM", SMALL)
    state = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    by_mxnet = dict(zip(RELEASED["names"].tolist(), RELEASED["mxnet"].tolist(), strict=True))
    seam = {**state, "fc8.weight": torch.zeros(20, 4)}
    for number, given in enumerate((seam, {by_mxnet[key]: value for key, value in state.items()})):
        path = f"{tmp_path}/{number}.pth"
        torch.save(given, path)
        found = build_encoder("resnet38d", path, output_stride=8, out_indices=(2, 3, 4)).state_dict()
        assert all(torch.equal(found[key], value) for key, value in state.items())
    torch.save({key: value for key, value in state.items() if "b7" not in key}, f"{tmp_path}/short.pth")
    with pytest.raises(WeightsError, match=r"missing \(b7\."):
        build_encoder("resnet38d", f"{tmp_path}/short.pth")


def test_what_it_is_not_is_told() -> None:
    with pytest.raises(ValueError, match="output stride 8"):
        build_encoder("resnet38d", "random", output_stride=16)
    with pytest.raises(ValueError, match="weights of a hub"):
        build_encoder("resnet38d", "hub")
    assert encoder_normalisation("resnet38d") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert np.isclose(sum(p.numel() for p in ResNet38(stem=SMALL).parameters()) * 256, 105e6, rtol=0.2)
