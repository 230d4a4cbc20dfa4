"""DCFM against numbers of its release: group part, enhancement, decoder, losses, gradients, steps, test maps."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.trainers.dcfm import Config, prototypes
from maskmill.trainers.dcfm.model import Dcfm, Output
from maskmill.trainers.dcfm.predict import enlarged_map
from maskmill.trainers.dcfm.released import SPARE, own_name
from maskmill.trainers.dcfm.train import compute_losses, optimised
from maskmill.trainers.engine import AugmentConfig, lr_factor, make_optimizer
from maskmill.vision.segmenters import IMAGENET
from tests.golden import assert_close, fill_large, golden, picture, uniform

torch.set_num_threads(1)

SIDE = 64
NUMBERS: dict[str, Any] = golden("dcfm", "network")
RELEASED = Config.model_validate({"preset": "faithful", "encoder_weights": "random", "steps": 600})
MATES = torch.ones(3, 3, dtype=torch.bool)
CLOSE: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-9}  # in fp64; some numbers are stored in fp32


@cache
def model() -> Dcfm:
    built = Dcfm(RELEASED).double()
    state = fill_large(built.state_dict(), gain=1.4)
    state["encoder.features_28.bias"] -= 1  # sparse features: some of their cosines are negative
    state["generation.residual.weight"] *= 3
    for name in (n for n in state if n.startswith("decoder.heads") and n.endswith("weight")):
        state[name] /= 2  # maps between 0 and 1, not at them
    built.load_state_dict(state)
    return built


@cache
def images() -> Tensor:
    rgb = np.stack([picture(f"dcfm {name}", SIDE, SIDE) for name in "abc"])
    mean, std = (torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in IMAGENET)
    return (torch.from_numpy(rgb).permute(0, 3, 1, 2).double() / 255 - mean) / std


@cache
def masks() -> Tensor:
    found = torch.zeros(3, SIDE, SIDE, dtype=torch.long)
    found[0, 10:40, 12:44] = found[1, 5:30, 20:60] = found[2, 30:62, 2:30] = 1
    return found


@cache
def forward(mode: str) -> tuple[list[Tensor], Output, Tensor]:
    """Features, output and enhanced features; those of training with a graph behind them."""
    built = model().train(mode == "train")
    with torch.set_grad_enabled(mode == "train"):
        features = built.encode(images())
        output = built.decode(features, MATES)
        assert output.mined is not None
        assert built.enhancement is not None
        return features, output, built.enhancement(output.mined.features)


def thinned(logits: Tensor) -> NDArray[Any]:
    """Logits of a level at the input's size, as recorded."""
    full = torch.nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return full.detach().numpy()[..., 1::4, 1::4]


def test_released_checkpoints_hold_all_our_weights() -> None:
    """Every name of the release has its place, and the other way round, but for VGG's classifier; shapes agree."""
    shapes = dict(zip(NUMBERS["keys"].tolist(), NUMBERS["shapes"].tolist(), strict=True))
    spare = [key for key in shapes if key.startswith(tuple(part.replace("\\", "") for part in SPARE))]
    assert len(spare) == 6
    named = {own_name(key): shape for key, shape in shapes.items() if key not in spare}
    assert named == {key: str(tuple(value.shape)) for key, value in model().state_dict().items()}
    assert own_name("backbone.conv9.conv9_1.weight") == "backbone.conv9.conv9_1.weight"


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_group_part(mode: str) -> None:
    """Seeds, response (negative cosines are cut off in evaluation alone), and what modulates the features."""
    _, output, enhanced = forward(mode)
    assert output.mined is not None
    chosen = NUMBERS[f"{mode}/seedmask"].reshape(3, -1)
    assert (chosen.sum(axis=1) == 1).all()
    assert_close(output.mined.seeds.detach(), NUMBERS[f"{mode}/seeds"], **CLOSE)
    assert_close(output.mined.response.detach(), NUMBERS[f"{mode}/response"], **CLOSE)
    assert_close(output.mined.features.detach()[:, ::8], NUMBERS[f"{mode}/mined"], rtol=1e-6, atol=1e-8)
    scale = float(np.abs(NUMBERS[f"{mode}/enhanced"]).max())
    assert_close(enhanced.detach()[:, ::8] / scale, NUMBERS[f"{mode}/enhanced"] / scale, atol=1e-7)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["group", "empty"])
def test_group_part_where_cosines_are_negative(mode: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features around 0: evaluation cuts negative cosines off, training does not. `empty`: an image without any, whose
    sixteen positions are alike. How many of them tie is up to the rounding of a machine's matrix product; four did
    where the release's numbers were made.
    """
    features = torch.from_numpy(uniform("dcfm features", 3, 512, 4, 4))
    if name == "empty":
        features[2] = 0
        picked = prototypes.pick_seeds

        def four_tie(unit: Tensor, scores: Tensor) -> Tensor:
            seeds = picked(unit, scores)
            ties = seeds[2].norm()
            assert torch.isclose(ties, ties.round())
            assert 1 <= ties.round() <= 16
            return torch.cat([seeds[:2], seeds[2:] * 4 / ties])

        monkeypatch.setattr(prototypes, "pick_seeds", four_tie)
    part = model().generation
    assert part is not None
    with torch.no_grad():
        mined = part.train(mode == "train")(features, MATES)
    released = f"part/{mode}/{name}"
    assert_close(mined.response, NUMBERS[f"{released}/response"], **CLOSE)
    assert_close(mined.prototype[0], NUMBERS[f"{released}/proto"], **CLOSE)
    assert_close(mined.features[:, ::16], NUMBERS[f"{released}/mined"], **CLOSE)


def test_modes_differ_by_the_negative_cosines() -> None:
    assert np.abs(NUMBERS["part/train/group/response"] - NUMBERS["part/eval/group/response"]).max() > 0.01


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_logits_of_all_four_levels(mode: str) -> None:
    features, output, _ = forward(mode)
    assert output.mined is not None
    with torch.no_grad():
        again = model().train(mode == "train").decode([f.detach() for f in features], MATES)
    for place, logits in enumerate(reversed(again.logits)):  # the release counts from the coarsest
        released = NUMBERS[f"{mode}/pred{place}"]
        scale = float(np.abs(released).max())
        assert_close(thinned(logits) / scale, released / scale, atol=1e-7)


def losses() -> dict[str, Tensor]:
    features, output, _ = forward("train")
    model().train()
    return compute_losses(RELEASED, model(), features, output, masks(), 0, MATES)


def test_prototypes_and_losses() -> None:
    features, output, _ = forward("train")
    assert output.mined is not None
    model().train()
    inside, outside = model().prototypes(features, masks()[:, None].double(), MATES)
    for name, found in (("proto", output.mined.prototype), ("proto_pos", inside), ("proto_neg", outside)):
        for row in found:
            assert_close(row.detach(), NUMBERS[name], **CLOSE)
    each = losses()
    assert set(each) == {"loss", "iou", "scl"}
    for name, value in each.items():
        assert float(value.detach()) == pytest.approx(float(NUMBERS[name]), rel=1e-6), name
    assert RELEASED.scl_weight * float(NUMBERS["scl"]) > 1e-3, "a cut self-contrast would not be seen"


def thin(values: Tensor) -> NDArray[Any]:
    flat = values.detach().flatten()
    return flat[:: max(1, flat.numel() // 257)][:257].numpy()


@pytest.fixture
def moving() -> Iterator[None]:
    """For a test that moves the weights: whoever comes next builds the network anew."""
    yield
    for kept in (model, forward):
        kept.cache_clear()


@pytest.mark.usefixtures("moving")
def test_gradients_and_three_steps() -> None:
    """Adam with weight decay, the encoder's last layer at a tenth; query and key of the seeds never move."""
    built = model()
    optimizer = make_optimizer(RELEASED, optimised(built, RELEASED.encoder_lr_factor))
    optimizer.zero_grad()
    torch.autograd.backward(losses()["loss"], retain_graph=True)
    own = dict(built.named_parameters())
    names = [key.removeprefix("grad/") for key in NUMBERS if key.startswith("grad/")]
    for name in names:
        gradient = own[own_name(name)].grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(float(NUMBERS[f"gradnorm/{name}"]), rel=1e-5)
        scale = float(np.abs(NUMBERS[f"grad/{name}"]).max())
        assert_close(thin(gradient) / scale, NUMBERS[f"grad/{name}"] / scale, atol=1e-5)
    untaught = {name for name, p in own.items() if p.requires_grad and p.grad is None}
    assert untaught == {own_name(name) for name in NUMBERS["no_grad"].tolist()}
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes == NUMBERS["group_sizes"].tolist()[::-1], "the encoder's group comes first here"
    before = {name: own[own_name(name)].detach().clone() for name in names}
    for rates in NUMBERS["lr"]:
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates.tolist()[::-1])
        optimizer.step()
    moved = {name: thin(own[own_name(name)] - before[name]) for name in names}
    for name in names:
        assert_close(moved[name], NUMBERS[f"moved/{name}"], rtol=1e-3, atol=1e-9)


def test_learning_rates_never_change() -> None:
    assert [lr_factor(RELEASED, step) for step in (0, 299, 599)] == [1, 1, 1]


@pytest.mark.parametrize(("place", "size"), [(0, (50, 75)), (1, (97, 64)), (2, (64, 64))])
def test_maps_at_their_own_size(place: int, size: tuple[int, int]) -> None:
    """The sigmoid at the network's size, enlarged with corners on corners."""
    logits = enlarged_map(forward("eval")[1].logits[0][place], (SIDE, SIDE), size)
    assert logits.shape == size
    share = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert_close(share[1::3, ::3], NUMBERS[f"map/{place}"], atol=2e-6)


RECIPE = {  # constants of the release's scripts, by our names
    "preset": "faithful",
    "parts": "dcfm",
    "seed": 123,
    "epochs": 200,
    "batch": 1,
    "members": 16,
    "optimizer": "adam",
    "lr": 1e-4,
    "encoder_lr_factor": 0.1,
    "weight_decay": 1e-4,
    "betas": (0.9, 0.99),
    "schedule": "constant",
    "warmup_steps": 0,
    "grad_clip": None,
    "precision": "fp32",
    "encoder": "vgg16",
    "encoder_weights": "hub",
    "output_stride": 32,
    "feature_levels": (0, 1, 2, 3, 4),
    "merged_levels": 1,
    "trained_layers": ("features_28",),
    "channels": None,
    "width": 64,
    "head_depth": 2,
    "norm": "none",
    "seeds": "fixed",
    "response_channel": False,
    "clip": "eval",
    "enhancement": "raw",
    "scl_weight": 0.1,
    "response_weight": 0.0,
    "test_resize": "maps",
    "consensus_weight": 0.0,
}
NOT_USED = {"steps", "momentum", "nesterov", "poly_power", "warmup_factor", "lr_floor"}  # epochs, Adam, constant rate
NO_RESULT = {
    "eval_every",
    "processes",
    "runtime",
    "consensus_size",
    "consensus_layers",
    "consensus_threshold",
    "consensus_level",
    "consensus_edges",
}  # the consensus has no weight


def test_the_preset_as_a_whole_table() -> None:
    found = Config(preset="faithful").model_dump()
    crop = found.pop("augment")
    assert {key: value for key, value in found.items() if key not in NOT_USED | NO_RESULT} == RECIPE
    assert crop == AugmentConfig(size=224, fit="short", scale=(0.8, 1.2), rotate=90.0, flip=0.5).model_dump()


def test_epochs_count_visits_of_groups() -> None:
    whole = Config(preset="faithful")
    assert whole.with_steps(samples=900, groups=65).steps == 200 * 65
    assert whole.with_steps(samples=7).steps == 200 * 7, "without groups each image is one"
    assert Config(preset="faithful", steps=10).with_steps(samples=900, groups=65).steps == 10
    assert Config(preset="faithful", steps=10, epochs=3).with_steps(samples=900, groups=65).steps == 195
    assert Config(epochs=3, batch=2).with_steps(samples=900, groups=5).steps == 8
