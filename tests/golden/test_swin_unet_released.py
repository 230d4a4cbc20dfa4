"""Swin-Unet against ABD's release: weights by name, logits, gradients, drop rates; Swin-T's files in both namings."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maskmill.trainers.abd import Config
from maskmill.trainers.abd.networks import rebuild
from maskmill.trainers.abd.swin_unet import SwinUnet, load_swin, mirrored
from maskmill.vision.segmenters import SegmenterConfig
from maskmill.vision.weights import WeightsError
from tests.golden import fill, golden, uniform

torch.set_num_threads(1)

NUMBERS: dict[str, Any] = golden("abd", "swin")
SMALL: dict[str, Any] = {"size": 64, "width": 12, "heads": (1, 2, 4, 8), "window": 4}


@cache
def network() -> SwinUnet:
    built = SwinUnet(4, **SMALL)
    built.load_state_dict(fill(built.state_dict(), gain=1.0))
    return built.eval()


def images() -> Tensor:
    return torch.from_numpy(uniform("swin image", 2, 1, 64, 64)).float().abs().repeat(1, 3, 1, 1)


def test_every_weight_has_its_place() -> None:
    assert set(network().state_dict()) == set(NUMBERS["keys"].tolist())


def test_the_releases_size() -> None:
    whole = SwinUnet(4)
    assert sum(p.numel() for p in whole.parameters()) == int(NUMBERS["parameters"]) == 27_168_420
    found = [
        getattr(block.drop_path1, "drop_prob", 0.0)  # type: ignore[union-attr]
        for stage in (*whole.layers, *whole.layers_up[1:])  # type: ignore[misc]
        for block in stage.blocks  # type: ignore[union-attr]
    ]
    np.testing.assert_allclose(found, NUMBERS["drops"], atol=1e-6)


def test_logits_and_gradients() -> None:
    network().zero_grad()
    logits = network()(images())
    np.testing.assert_allclose(logits[:, :, ::4, ::4].detach().numpy(), NUMBERS["logits"], atol=2e-5)
    truth = torch.from_numpy((uniform("swin truth", 2, 64, 64) * 2 + 2).astype(np.int64)).clamp(0, 3)
    loss = torch.nn.functional.cross_entropy(logits, truth)
    assert float(loss.detach()) == pytest.approx(float(NUMBERS["loss"]), abs=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    own = dict(network().named_parameters())
    norms = {key.removeprefix("gradnorm/"): float(value) for key, value in NUMBERS.items() if "gradnorm/" in key}
    assert len(norms) == 5
    assert {key: float(own[key].grad.norm()) for key in norms} == pytest.approx(norms, rel=2e-3)  # type: ignore[union-attr]


def test_other_sizes_are_taken() -> None:
    assert network()(torch.rand(1, 3, 96, 64)).shape == (1, 4, 96, 64)


def classifier() -> dict[str, Tensor]:
    """A Swin classifier's weights by the names of its authors."""
    own = {
        key: value + 0.5
        for key, value in network().state_dict().items()
        if key.startswith(("patch", "layers.", "norm."))
    }
    masks = {
        "layers.0.blocks.1.attn_mask": torch.zeros(1),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(1),
    }
    return {**own, **masks, "head.weight": torch.zeros(2, 2), "head.bias": torch.zeros(2)}


@pytest.mark.parametrize("naming", ["authors", "timm"])
def test_weights_of_swin_and_their_mirror_image(naming: str, tmp_path: Any) -> None:
    """Encoder as it is, decoder blocks from the stage across; what a classifier has not stays as it was drawn."""
    state = classifier()
    if naming == "timm":
        moved = {key: f"layers.{int(key[7]) + 1}{key[8:]}" for key in state if "downsample" in key}
        state = {moved.get(key, key): value for key, value in state.items()}
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "swin.safetensors")
    fresh = SwinUnet(4, **SMALL)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    load_swin(fresh, str(tmp_path / "swin.safetensors"))
    after, source = fresh.state_dict(), classifier()
    for key in after:
        if key.startswith(("patch_embed.", "layers.", "norm.")):
            assert torch.equal(after[key], source[key]), key
        elif ".blocks." in key:
            stage = int(key.split(".")[1])
            assert torch.equal(after[key], source[f"layers.{3 - stage}{key[11:]}"]), key
        else:
            assert torch.equal(after[key], before[key]), key
    assert "layers_up.0.blocks.0.norm1.weight" not in mirrored(source), "the coarsest level has no twin"


def test_a_file_that_lacks_a_stage_is_refused(tmp_path: Any) -> None:
    state = {key: value for key, value in classifier().items() if not key.startswith("layers.2.blocks.1.")}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match=r"weights fit; .* missing"):
        load_swin(SwinUnet(4, **SMALL), str(tmp_path / "part.safetensors"))


def test_the_preset_builds_it() -> None:
    config = Config.model_validate({"preset": "faithful", "partner": {"weights": "random", "options": SMALL}})
    assert config.partner.architecture == "swin_unet"
    assert isinstance(rebuild(config.partner, 4), SwinUnet)
    assert SegmenterConfig(architecture="swin_unet").options == {}
