"""SCWSSOD against numbers of its release: four heads, both losses, gradients, steps, learning rates, test maps."""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.engine import AugmentConfig, lr_factor, make_optimizer
from maskmill.trainers.engine.optim import set_lr
from maskmill.trainers.scribbles import balanced_pce
from maskmill.trainers.scwssod import Config
from maskmill.trainers.scwssod.losses import shrink
from maskmill.trainers.scwssod.model import BinaryLogits, SaliencyNet
from maskmill.trainers.scwssod.released import own_name
from maskmill.trainers.scwssod.train import build, consistency, optimised, scribble_loss
from tests.golden import assert_close, fill_large, golden, picture

torch.set_num_threads(1)

SIDE = 64
NUMBERS: dict[str, Any] = golden("scwssod", "network")
RELEASED = Config(preset="repository")
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8}  # everything runs in fp64


def network() -> SaliencyNet:
    built = build(RELEASED, "random").double()
    state = fill_large(built.state_dict(), gain=1.4)
    state = {key: v + 1 if "scores" in key and key.endswith("bias") else v for key, v in state.items()}
    built.load_state_dict(state)
    return built


@cache
def images() -> Tensor:
    rgb = np.stack([picture(f"scwssod {name}", SIDE, SIDE) for name in "abcd"])
    mean, std = (torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in RELEASED.colours)
    return (torch.from_numpy(rgb).permute(0, 3, 1, 2).double() / 255 - mean) / std


@cache
def labels() -> Tensor:
    found = torch.full((4, SIDE, SIDE), 255, dtype=torch.long)
    found[0, 20:24, 10:50] = found[1, 8:40, 30:33] = found[2, 44:46, 9:30] = found[3, 30:33, 30:33] = 1
    found[0, 50:52, 5:60] = found[1, 2:4, 2:30] = found[2, 5, 5:60] = found[3, :, 60] = 0
    return found


@cache
def trained() -> tuple[SaliencyNet, list[Tensor], Tensor, dict[str, Tensor]]:
    """Network, logits of its heads, total loss and the parts, after both passes of a training step."""
    net = network().train()
    heads = net(images())
    unlike = consistency(RELEASED, net, heads[0], images())
    loss, parts = scribble_loss(RELEASED, heads, labels(), {"plain": images()}, RELEASED.ramp_at(0))
    return net, heads, loss + RELEASED.ssc_weight * unlike, {**parts, "consistency": unlike}


def test_released_checkpoints_hold_all_our_weights() -> None:
    """Every name of the release has its place, and the other way round; shapes agree."""
    shapes = dict(zip(NUMBERS["keys"].tolist(), NUMBERS["shapes"].tolist(), strict=True))
    with torch.device("meta"):
        own = build(RELEASED, "random").state_dict()
    assert {own_name(key): shape for key, shape in shapes.items()} == {k: str(tuple(v.shape)) for k, v in own.items()}
    assert own_name("srm2.conv9.weight") == "refines.0.conv9.weight"
    assert own_name("other.conv1.weight") == "other.conv1.weight"


def test_four_heads_of_training() -> None:
    """Heads 2, 3, 4, 5 in this order; the release gives their sigmoid."""
    _, heads, _, _ = trained()
    for place, logits in enumerate(heads):
        assert_close(logits[:, 0].sigmoid().detach()[:, 1::4, ::4], NUMBERS[f"train/head{place + 2}"], **CLOSE)


def test_running_statistics_hold_both_passes() -> None:
    state = trained()[0].state_dict()
    names = [key.removeprefix("stat/") for key in NUMBERS if key.startswith("stat/")]
    assert len(names) == 6
    for name in names:
        assert_close(state[own_name(name)], NUMBERS[f"stat/{name}"], **CLOSE)


@contextlib.contextmanager
def still(net: SaliencyNet) -> Iterator[None]:
    """Running statistics stay as they are inside."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    yield
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def test_losses_of_each_head() -> None:
    net, heads, _, _ = trained()
    weights = (1, 0.8, 0.6, 0.4)
    _, parts = scribble_loss(RELEASED, heads, labels(), {"plain": images()}, 1.0)
    with torch.no_grad(), still(net):
        parts["consistency"] = consistency(RELEASED, net, heads[0], images())
    each = [balanced_pce(z, labels(), RELEASED.pce) for z in heads]
    assert_close(torch.stack(each).detach(), NUMBERS["pce"], **CLOSE)
    assert float(parts["pce"].detach()) == pytest.approx(float(np.dot(weights, NUMBERS["pce"])), rel=1e-7)
    assert float(parts["coherence"].detach()) == pytest.approx(float(np.dot(weights, NUMBERS["lsc"])), rel=1e-6)
    assert float(parts["consistency"].detach()) == pytest.approx(float(NUMBERS["ssc"]), rel=1e-6)


def test_the_whole_loss() -> None:
    assert float(trained()[2].detach()) == pytest.approx(float(NUMBERS["loss"]), rel=1e-7)
    assert float(NUMBERS["ssc"]) > 1e-3, "a cut consistency would not be seen"


def test_the_colour_kernel_fades_from_head_to_head() -> None:
    """The release divides its colours in place, once more for each head; `faithful` has coherence on the main head."""
    assert NUMBERS["lsc"][0] > 10 * NUMBERS["lsc"][1:].max()
    faithful = Config(preset="faithful")
    assert faithful.lsc_heads == "main"
    _, heads, _, _ = trained()
    _, parts = scribble_loss(faithful, heads, labels(), {"plain": images()}, 1.0)
    alone, _ = scribble_loss(faithful, heads[:1] * 4, labels(), {"plain": images()}, 1.0)
    assert float(parts["coherence"].detach()) > 0
    assert float(alone.detach()) > 0


def thin(values: Tensor) -> NDArray[Any]:
    flat = values.detach().flatten()
    return flat[:: max(1, flat.numel() // 257)][:257].numpy()


@pytest.fixture
def moving() -> Iterator[None]:
    """For a test that moves the weights: whoever comes next trains anew."""
    yield
    trained.cache_clear()


@pytest.mark.usefixtures("moving")
def test_gradients_and_two_steps() -> None:
    """SGD with Nesterov's momentum; the encoder, the first group, at a tenth."""
    net, _, loss, _ = trained()
    optimizer = make_optimizer(RELEASED, optimised(net, RELEASED.encoder_lr_factor))
    torch.autograd.backward(loss, retain_graph=True)
    own = dict(net.named_parameters())
    names = [key.removeprefix("grad/") for key in NUMBERS if key.startswith("grad/")]
    for name in names:
        gradient = own[own_name(name)].grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(float(NUMBERS[f"gradnorm/{name}"]), rel=1e-4), name
        scale = float(np.abs(NUMBERS[f"grad/{name}"]).max())
        assert_close(thin(gradient) / scale, NUMBERS[f"grad/{name}"] / scale, atol=1e-4, err_msg=name)
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes == NUMBERS["group_sizes"].tolist()
    before = {name: own[own_name(name)].detach().clone() for name in names}
    for step in (6600, 6601):
        set_lr(optimizer, lr_factor(RELEASED, step))
        optimizer.step()
    for name in names:
        released = NUMBERS[f"moved/{name}"]
        scale = float(np.abs(released).max())
        assert_close(thin(own[own_name(name)] - before[name]) / scale, released / scale, atol=1e-4)


def test_learning_rates_of_both_groups() -> None:
    """The release's counter begins at -1: its rates come a step after ours, and the first two are the same."""
    optimizer = make_optimizer(RELEASED, optimised(trained()[0], RELEASED.encoder_lr_factor))
    for step, rates in zip(NUMBERS["lr/steps"].tolist(), NUMBERS["lr/groups"].tolist(), strict=True):
        set_lr(optimizer, lr_factor(RELEASED, abs(step - 1)))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates, rel=1e-9)


def test_the_second_pass_sees_a_smaller_image() -> None:
    with torch.no_grad():
        small = network().train()(shrink(images(), RELEASED.ssc_scale))[0].sigmoid()
    assert_close(small[:, 0].detach()[:, ::2, ::2], NUMBERS["small"], **CLOSE)


def test_heads_and_map_at_test_time() -> None:
    """After one pass that sets the running statistics to those of these images."""
    net = network().train()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        net(images())
        heads = net.eval()(images())
        for place, logits in enumerate(heads):
            assert_close(logits[:, 0, 1::4, ::4], NUMBERS[f"test/head{place + 2}"], rtol=1e-5, atol=1e-6)
        two = BinaryLogits(net)(images())[:1]
        own_size = F.interpolate(two, (50, 75), mode="bilinear", align_corners=False)
    assert_close(own_size.softmax(dim=1)[0, 1, 1::3, ::3], NUMBERS["map"], atol=1e-6)


RECIPE = {  # constants of the release's script, by our names; `faithful` mends what stands in MENDED
    "preset": "repository",
    "steps": 26_400,
    "epochs": None,
    "batch": 16,
    "optimizer": "sgd",
    "lr": 1e-2,
    "lr_floor": 1e-3,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "encoder_lr_factor": 0.1,
    "schedule": "triangle",
    "warmup_steps": 0,
    "grad_clip": None,
    "precision": "fp32",
    "supervision": "scribbles",
    "encoder": "resnet50.tv_in1k",
    "encoder_weights": "hub",
    "normalisation": "duts",
    "width": 256,
    "fusion": "aggm",
    "gate": "raw",
    "gate_floor": False,
    "head_weights": (1.0, 0.8, 0.6, 0.4),
    "pce": "softmax_of_prob",
    "scribble_resize": "nearest",
    "lsc_weight": 0.3,
    "lsc_heads": "all",
    "lsc_form": "repository",
    "lsc_scale": 0.25,
    "lsc_radius": 5,
    "xy_sigma_cells": 6.0,
    "colour_sigma_normalised": 0.1,
    "ssc_weight": 1.0,
    "ssc_scale": 0.3,
    "ssc_alpha": 0.85,
    "ssc_norm": "shared",
    "ramp": 0.0,
}
MENDED = {"preset": "faithful", "lsc_heads": "main", "lsc_form": "exact", "gate_floor": True}
NOT_USED = {"betas", "poly_power", "warmup_factor"}
NO_RESULT = {"eval_every", "processes", "runtime", "seed"}  # the release sets no seed


def test_presets_as_whole_tables() -> None:
    found = Config(preset="repository").model_dump()
    crop = found.pop("augment")
    assert {key: value for key, value in found.items() if key not in NOT_USED | NO_RESULT} == RECIPE
    assert crop == AugmentConfig(size=320, fit="squash", flip=0.5).model_dump()
    faithful = Config(preset="faithful").model_dump()
    assert faithful["augment"] == crop
    assert {k: v for k, v in faithful.items() if k != "augment" and v != found[k]} == MENDED
