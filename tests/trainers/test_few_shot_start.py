"""First weights by name, dilation as released, checkpoints of the release, images in the corner of the canvas."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskmill.trainers.engine import read_artifact
from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.canvas import corner, corner_size, enlarged
from maskmill.trainers.few_shot.encoder import dilate, encoder_of
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.released import RULES, released_artifact
from maskmill.trainers.few_shot.start import start_by_name
from maskmill.vision.weights import WeightsError
from tests.trainers import shapes

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"width": 8, "scales": (1.0, 0.5), "prior": "plain", "dropout": 0.0, "size": 64}


def net(seed: int = 0, **settings: Any) -> FewShotNet:
    torch.manual_seed(99)
    config = Config.model_validate({**SMALL, **settings})
    built = FewShotNet(config, 12, config.prior_channels)
    start_by_name(built, seed)
    return built.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_networks_begin_alike_where_they_share_a_weight() -> None:
    base, guided, primed = net(), net(scl=True), net(prior="pi_clip")
    for other in (guided, primed):
        theirs = other.state_dict()
        same = [key for key, value in base.state_dict().items() if theirs[key].shape == value.shape]
        assert len(same) >= 15
        assert all(torch.equal(base.state_dict()[key], theirs[key]) for key in same)
    merge = base.decoder.query_merge[0][0].weight  # type: ignore[union-attr, index]
    assert torch.equal(merge[:, :16], primed.decoder.query_merge[0][0].weight[:, :16])  # type: ignore[union-attr, index]
    assert torch.equal(merge[:, 16:17], guided.decoder.query_merge[0][0].weight[:, 24:25])  # type: ignore[union-attr, index]


def test_two_equal_vectors_begin_as_one() -> None:
    """A guided network that is shown the plain vector twice answers as the base network does."""
    base, guided = net(), net(scl=True)
    query, supports, mask = noise(1, 12, 8, 8), noise(1, 12, 8, 8, seed=1), torch.ones(1, 1, 8, 8)
    prior = noise(1, 1, 8, 8, seed=2).sigmoid()
    with torch.no_grad():
        wanted = base(query, supports[None], mask[None], prior).logits
        own = guided.down_support(supports).mean(dim=(2, 3), keepdim=True) * (64 / 64.0005)
        found = guided.guided(query, (own, own), prior)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_weights_are_of_a_layers_usual_size_and_of_the_seed() -> None:
    weight = net().decoder.gather[0].weight.detach()  # type: ignore[union-attr, index]
    bound = 1 / math.sqrt(16)
    assert 0.9 * bound < float(weight.abs().max()) <= bound
    assert abs(float(weight.mean())) < 0.2 * bound
    assert not torch.equal(weight, net(seed=1).decoder.gather[0].weight)  # type: ignore[union-attr, index]
    inner = net().decoder.inner  # type: ignore[union-attr]
    assert not torch.equal(inner[0][0].weight, inner[1][0].weight), "by name, not by shape"  # type: ignore[index]
    bias = inner[0][3].bias.detach()  # type: ignore[index]
    assert 0 < float(bias.abs().max()) <= 1 / math.sqrt(8)


def test_every_block_dilates_as_released() -> None:
    config = Config(encoder="resnet10t", encoder_weights="random", released_dilation=True)
    encoder, _ = encoder_of(config, "cpu")
    found = [[block.conv2.dilation for block in stage] for stage in (encoder.layer2, encoder.layer3, encoder.layer4)]
    assert found == [[(1, 1)], [(2, 2)], [(4, 4)]]
    assert [f.shape[-1] for f in encoder(torch.zeros(1, 3, 65, 65))[-3:]] == [9, 9, 9]
    released, plain = (
        Config(encoder="resnet26", encoder_weights="random", released_dilation=on) for on in (True, False)
    )
    dilations = [[b.conv2.dilation[0] for b in encoder_of(one, "cpu")[0].layer4] for one in (released, plain)]
    assert dilations == [[4, 4], [2, 4]], "timm leaves the first block of a stage"
    with pytest.raises(ValueError, match="expected a ResNet"):
        dilate(nn.Sequential())


def released_name(key: str) -> str:
    """What the release calls a weight of ours."""
    for pattern, name in RULES:
        plain = pattern.strip("^").replace(r"\.", ".")
        if "(" in plain:
            head, tail = name.split(r"\1")
            if key.startswith(head) and tail in key:
                number = key.removeprefix(head).partition(".")[0]
                return plain.replace(r"(\d+)", number) + key.removeprefix(f"{head}{number}{tail}")
        elif key.startswith(name):
            return plain + key.removeprefix(name)
    return key


def test_a_checkpoint_of_the_release_becomes_an_artifact(tmp_path: Path) -> None:
    """Through a wrapper's names, its backbone with it; deeper features change places with finer ones."""
    from maskmill.pipelines.stages.import_checkpoint import import_checkpoint

    given = {"preset": "scl", "encoder": "resnet10t", "encoder_weights": "random", "width": 16, "scales": [4, 2]}
    config = Config.model_validate(given)
    encoder, widths = encoder_of(config, "cpu")
    channels = sum(widths[-3:-1])
    wanted = FewShotNet(config, channels, 1)
    state = {f"module.{released_name(key)}": value.clone() for key, value in wanted.state_dict().items()}
    assert "module.down_supp.0.weight" in state
    assert "module.beta_conv.1.2.weight" in state
    assert "module.res2.2.weight" in state
    backbone = {key: noise(*value.shape) + 1 for key, value in encoder.state_dict().items() if "tracked" not in key}
    stem = (("bn1.", "layer0.7."), ("conv1.", "layer0."), ("layer", "layer"))
    theirs = {
        f"module.{new}{key.removeprefix(old)}": value
        for key, value in backbone.items()
        for old, new in stem
        if key.startswith(old)
    }
    assert {"module.layer0.7.running_var", "module.layer0.3.weight", "module.layer4.0.bn1.running_mean"} <= set(theirs)
    torch.save({"epoch": 3, "state_dict": {**state, **theirs}}, tmp_path / "a.pth")
    path = import_checkpoint("few_shot", str(tmp_path / "a.pth"), str(tmp_path / "out"), shapes.SPACE, given)
    found = read_artifact(path).tensors
    for key, value in wanted.state_dict().items():
        own = found[f"module/net/{key}"]
        moved = value.roll(channels - 1024, dims=1) if key.startswith("down_") else value
        assert torch.equal(own, moved), key
    assert all(torch.equal(found[f"module/encoder/{key}"], value) for key, value in backbone.items())
    stored = released_artifact(
        state, "a.pth", Config.model_validate({**given, "encoder_norms": "stored"}), shapes.SPACE
    )
    assert set(stored["modules"]) == {"net"}, "the backbone of encoder_weights"
    with pytest.raises(WeightsError, match="missing"):
        released_artifact(state, "a.pth", config, shapes.SPACE)
    with pytest.raises(WeightsError, match="missing"):
        released_artifact({"module.cls.0.weight": state["module.cls.0.weight"]}, "b.pth", config, shapes.SPACE)
    with pytest.raises(ValueError, match="preset=scl"):
        released_artifact(state, "a.pth", Config(), shapes.SPACE)


def test_the_corner_of_the_canvas() -> None:
    assert corner_size(375, 500, 473) == (352, 472)
    assert corner_size(500, 375, 473) == (472, 352)
    assert corner_size(40, 900, 64) == (8, 64), "at least a cell"
    mask = corner(np.ones((30, 20), np.uint8), 64, mask=True)
    assert (mask[:64, :40] == 1).all()
    assert (mask[:, 40:] == 255).all()
    logits = noise(1, 2, 5, 5)
    assert torch.equal(enlarged(logits, 9, 9, "squash", None), enlarged(logits, 9, 9, "corner", None))
    assert enlarged(logits, 6, 9, "corner", None).shape == (1, 2, 6, 9)
    assert not torch.allclose(enlarged(logits, 6, 9, "squash", 16), enlarged(logits, 6, 9, "squash", None))


def test_weights_of_a_stem_of_three_convolutions(tmp_path: Path) -> None:
    """PFENet's file names its stem's layers one after another."""
    from maskmill.vision.segmenters import DEEP_STEM, build_encoder

    torch.manual_seed(0)
    wanted = build_encoder("resnet26t", "random", output_stride=8)
    back = {new: old for old, new in DEEP_STEM.items()}
    state = {}
    for key, value in wanted.state_dict().items():
        head = next((head for head in back if key.startswith(head)), None)
        state[key if head is None else back[head] + key.removeprefix(head)] = value
    assert {"conv1.weight", "bn2.bias", "conv3.weight", "bn3.running_mean"} <= set(state)
    torch.save({**state, "fc.weight": torch.zeros(1)}, tmp_path / "resnet50_v2.pth")
    torch.manual_seed(1)
    found = build_encoder("resnet26t", str(tmp_path / "resnet50_v2.pth"), output_stride=8)
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in wanted.state_dict().items())


def featurizer(**settings: Any) -> Any:
    from maskmill.trainers.few_shot.train import featurizer_of

    given = {
        "encoder": "resnet10t",
        "encoder_weights": "random",
        "size": 65,
        "scale_levels": False,
        "episodes": {"held_out": ()},
    }
    given |= settings
    return featurizer_of(Config.model_validate(given), shapes.SPACE, torch.device("cpu"))


def test_the_object_alone_reaches_the_last_stage() -> None:
    """What lies behind an example's object changes the plain prior's features without `mask_stage` alone."""
    image, mask = shapes.draw_scene(3)
    object_ = (mask == mask[(mask > 0) & (mask < 255)][0]).astype(np.uint8)
    whole, cut = (featurizer(mask_stage=on).shot(image, object_) for on in (False, True))
    assert torch.equal(whole.features.middle, cut.features.middle)
    assert whole.features.high.shape == cut.features.high.shape
    assert not torch.allclose(whole.features.high, cut.features.high)
    one = featurizer(mask_stage=True)
    third = whole.features.middle[-one._third :] * cut.grid_mask
    torch.testing.assert_close(one.encoder.layer4(third[None])[0], cut.features.high)
    with pytest.raises(ValueError, match="mask_stage: expected a ResNet"):
        featurizer(mask_stage=True, encoder="test_efficientnet")


def test_a_tested_photo_lies_in_the_corner() -> None:
    """Queries and supports alike, and answers come back at the photo's size."""
    from maskmill.trainers.few_shot.predict import FewShotPredictor

    made = featurizer(test_fit="corner", canvas_logits=True, width=8, scales=[1.0])
    built = FewShotNet(made.config, made.channels, made.config.prior_channels)
    predictor = FewShotPredictor(built, made, shapes.SPACE)
    image = np.ascontiguousarray(shapes.draw_scene(3)[0][:40])
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[10:30, 10:40] = 1
    supports = predictor.supports([(image, mask)], "thing")
    (shot,) = supports.shots
    assert shot.mask.shape == (65, 65)
    height, width = corner_size(*mask.shape, 65)
    assert (shot.mask[height:] == 255).all()
    assert (shot.mask[:height, :width] != 255).all()
    torch.testing.assert_close(predictor.see(image).middle, made.image(corner(image, 65)).middle)
    assert predictor.predict([image], supports)[0].logits.shape == (2, *mask.shape)
