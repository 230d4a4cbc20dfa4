"""ABD against its release: moves, whole steps of both hosts on its U-Net, rates, rectangle, zoom, presets."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskmill.pipelines.run.reproduce import load_recipe
from maskmill.trainers.abd import Config
from maskmill.trainers.abd.config import LABELLED
from maskmill.trainers.abd.displace import displace, inverse, reliable
from maskmill.trainers.abd.hosts import Networks, bcp_step, cross_teaching_step, pretraining_step
from maskmill.trainers.abd.mixing import follow, paste_region
from maskmill.trainers.abd.networks import input_normalisation
from maskmill.trainers.abd.unet import ReleasedUnet
from maskmill.trainers.abd.views import zoom_nearest
from maskmill.trainers.engine import lr_factor, make_optimizer, param_groups
from tests.golden import fill, golden, picture, uniform

torch.set_num_threads(1)

NUMBERS = golden("abd", "step")
SIDE, COINS = 64, (0.1, 0.9, 0.3, 0.7)
CLOSE = 1e-5
ROUNDED = 3e-2  # of the largest: the release's own float32 gradients of that step are so far from those in double


def grey(name: str) -> Tensor:
    return torch.from_numpy(picture(name, SIDE, SIDE)[..., 0].astype(np.float32) / 255)


def mask(name: str) -> Tensor:
    places = (uniform(name, 3, 2) + 1) / 2
    out = np.zeros((SIDE, SIDE), np.int64)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for class_id, (down, across) in enumerate(places, 1):
        out[((rows - down * SIDE) ** 2 + (columns - across * SIDE) ** 2) < (6 + 5 * class_id) ** 2] = class_id
    return torch.from_numpy(out)


def views(tag: str, kind: str) -> dict[str, Tensor]:
    """Four images (4, 3, 64, 64) of equal channels, labels, no hole."""
    names = [f"{tag} {kind}{i}" for i in range(4)]
    weak = [grey(f"{name} weak") for name in names]
    strong = [0.6 * one + 0.4 * grey(f"{name} strong") for one, name in zip(weak, names, strict=True)]
    found = {"weak": torch.stack(weak), "strong": torch.stack(strong)}
    rgb = {key: value[:, None].expand(-1, 3, -1, -1) for key, value in found.items()}
    labels = torch.stack([mask(name) for name in names])
    return {**rgb, "mask": labels, "mask_strong": labels, "hole": torch.zeros(labels.shape).bool()}


def batch(tag: str) -> dict[str, Any]:
    """In double, as the networks: how a machine's float32 kernels round grows to per cents in the first gradients."""
    found = {"labelled": views(tag, "l"), "unlabelled": views(tag, "u")}
    return {
        part: {key: value.double() if value.is_floating_point() else value for key, value in own.items()}
        for part, own in found.items()
    }


def unet(name: str) -> ReleasedUnet:
    """The release's U-Net without dropout, weights by formula."""
    built = ReleasedUnet(4)
    state = fill({f"{name} {key}": value for key, value in built.state_dict().items()}, gain=1.4)
    state = {key.removeprefix(f"{name} "): value for key, value in state.items()}
    for key in state:
        if key.endswith("running_var"):
            state[key] = 1 + 0.01 * torch.from_numpy(uniform(f"{name} {key}", *state[key].shape)).float().abs()
    built.load_state_dict(state)
    for layer in built.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return built.double().train()


class Drawn:
    """A generator that gives what the release drew: places of the rectangle, then coins."""

    def __init__(self, places: list[int], coins: tuple[float, ...] = COINS) -> None:
        self.places: Iterator[int] = iter(places)
        self.coins = np.array(coins)

    def integers(self, high: int) -> int:
        return next(self.places)

    def random(self, count: int) -> Any:
        return self.coins[:count]


def check(pre: str, networks: Networks, learning_rate: float, loss: Tensor) -> None:
    """Gradients, weights after the step of SGD, and running means after it."""
    both = [("first", networks.first)] + ([("second", networks.second)] if networks.second is not None else [])
    modules = [module for _, module in both]
    close, after = (ROUNDED, 5e-5) if pre == "bcp" else (5e-3, CLOSE)
    optimizers = [torch.optim.SGD(m.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4) for m in modules]
    loss.backward()  # type: ignore[no-untyped-call]
    for name, module in both:
        own = dict(module.named_parameters())
        keys = [key for key in NUMBERS if key.startswith(f"{pre}/{name}/grad/")]
        assert len(keys) == 5
        for key in keys:
            gradient = own[key.rpartition("/")[2]].grad
            assert gradient is not None
            some = gradient.flatten()[:: max(1, gradient.numel() // 61)][:61].numpy()
            scale = float(np.abs(NUMBERS[key]).max())
            np.testing.assert_allclose(some / scale, NUMBERS[key] / scale, atol=close, err_msg=key)
            norm = float(NUMBERS[key.replace("/grad/", "/gradnorm/")])
            assert float(gradient.norm()) == pytest.approx(norm, rel=max(close / 3, 2e-3)), key
    for optimizer in optimizers:
        optimizer.step()
    for name, module in both:
        weights, buffers = dict(module.named_parameters()), dict(module.named_buffers())
        for key in (key for key in NUMBERS if key.startswith(f"{pre}/{name}/after/")):
            value = weights[key.rpartition("/")[2]].detach().flatten()
            some = value[:: max(1, value.numel() // 61)][:61].numpy()
            np.testing.assert_allclose(some, NUMBERS[key], atol=after, err_msg=key)
        (key,) = (key for key in NUMBERS if key.startswith(f"{pre}/{name}/running/"))
        np.testing.assert_allclose(buffers[key.rpartition("/")[2]].numpy(), NUMBERS[key], atol=CLOSE, err_msg=key)


def released(preset: str = "faithful", **changes: Any) -> Config:
    given = {"preset": preset, "augment": {"size": SIDE}, "batch": 4, "unlabelled_batch": 4, **changes}
    return Config.model_validate(given)


def test_network() -> None:
    """Its size, and every weight's place."""
    net = ReleasedUnet(4)
    assert sum(p.numel() for p in net.parameters()) == int(NUMBERS["parameters"]) == 1_813_764
    assert set(NUMBERS["keys"].tolist()) == set(net.state_dict())
    assert input_normalisation(released()) == ((0, 0, 0), (1, 1, 1))


@cache
def logits(number: int) -> Tensor:
    coarse = torch.from_numpy(uniform(f"abd logits {number}", 8, 4, SIDE // 4, SIDE // 4) * 3).float()
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


def moved(kind: str, key: str = "weak") -> tuple[Tensor, Tensor]:
    found = views("abd moves", kind)
    return (found["weak"][:, 0], found["strong"][:, 0]) if key == "weak" else (found["mask"], found["mask_strong"])


def test_reliable_displacement_bit_for_bit() -> None:
    move = reliable(logits(1)[4:], logits(2)[4:], 4, 4, None)
    assert np.array_equal(displace(*moved("u"), move, 4)[:, ::4, ::4].numpy(), NUMBERS["moves/R"])


def test_reliable_displacement_by_a_coin_bit_for_bit() -> None:
    nearest = torch.tensor(COINS) < 0.5
    move = reliable(logits(1)[:4], logits(2)[:4], 4, 4, nearest)
    assert np.array_equal(displace(*moved("l"), move, 4)[:, ::4, ::4].numpy(), NUMBERS["moves/R bcp"])


def test_inverse_displacement_bit_for_bit() -> None:
    move = inverse(logits(1)[:4], logits(2)[:4], 4, torch.tensor(COINS) < 0.5)
    assert np.array_equal(displace(*moved("l"), move, 4)[:, ::4, ::4].numpy(), NUMBERS["moves/I"])
    labels = displace(*moved("l", "label"), move, 4)[:, ::4, ::4].numpy()
    assert np.array_equal(labels, NUMBERS["moves/I labels"])


@pytest.mark.parametrize(("pre", "step"), [("ct0", 0), ("ct20001", 20_001)])
def test_a_step_of_cross_teaching(pre: str, step: int) -> None:
    """Loss, gradients, weights after it: with ABD-I, and when it has stopped and its images still pass the norms."""
    networks = Networks(unet("first"), unet("second"))
    rng: Any = Drawn([])
    found = cross_teaching_step(networks, batch("abd ct"), released(), step, rng, 0)
    wanted = float(NUMBERS[f"{pre}/model1_loss"] + NUMBERS[f"{pre}/model2_loss"])
    assert float(found.loss.detach()) == pytest.approx(wanted, abs=2e-5)
    assert found.notes["consistency"] == pytest.approx(float(NUMBERS[f"{pre}/weight"]))
    check(pre, networks, 0.01, found.loss)


def place(pre: str) -> list[int]:
    rows, columns = np.nonzero(NUMBERS[f"{pre}/region"] == 0)
    return [int(rows.min()), int(columns.min())]


def test_a_step_of_bcp() -> None:
    """Loss, gradients, weights after it, and the teacher, which follows network 1 with all its state."""
    networks, config = Networks(unet("same"), unet("same"), unet("teacher")), released("faithful_bcp")
    rng: Any = Drawn(place("bcp"), tuple(1 - coin for coin in COINS))  # ours count the coin from the other side
    found = bcp_step(networks, batch("abd bcp"), config, 20_000, rng, 0)
    assert float(found.loss.detach()) == pytest.approx(float(NUMBERS["bcp/total_loss"]), abs=2e-5)
    check("bcp", networks, config.lr, found.loss)
    assert networks.teacher is not None
    follow(networks.teacher, networks.first, config.ema)
    state = networks.teacher.state_dict()
    for key in (key for key in NUMBERS if key.startswith(("bcp/teacher/after/", "bcp/teacher/running/"))):
        value = state[key.rpartition("/")[2]].flatten()
        some = value[:: max(1, value.numel() // 61)][:61].numpy() if "after" in key else value.numpy()
        np.testing.assert_allclose(some, NUMBERS[key], atol=CLOSE, err_msg=key)


def test_a_step_of_the_first_phase_of_bcp() -> None:
    networks, config = Networks(unet("same"), unet("same"), unet("teacher")), released("faithful_bcp")
    rng: Any = Drawn(place("pre"))
    found = pretraining_step(networks, batch("abd bcp"), config, rng)
    assert float(found.loss.detach()) == pytest.approx(float(NUMBERS["pre/total_loss"]), abs=2e-5)
    check("pre", Networks(networks.first), config.lr, found.loss)


def test_rectangle() -> None:
    """Where its corners may lie: the release leaves out the last place, ours does so where told."""
    rng, corners = np.random.default_rng(0), {True: [], False: []}  # type: ignore[var-annotated]
    for edge, found in corners.items():
        for _ in range(400):
            rows, columns = np.nonzero(~paste_region(SIDE, SIDE, rng, edge=edge).numpy())
            found.append([rows.min(), columns.min(), rows.max(), columns.max()])
    assert np.array_equal([np.min(corners[False], 0), np.max(corners[False], 0)], NUMBERS["region/range"])
    assert np.max(corners[True], 0).tolist() == (np.array(NUMBERS["region/range"][1]) + 1).tolist()
    assert not released("faithful_bcp").paste_edge


def test_zoom() -> None:
    photo = picture("abd zoom", 53, 71)[..., 0]
    assert np.array_equal(zoom_nearest(photo, 32, 32), NUMBERS["zoom/down"])
    assert np.array_equal(zoom_nearest(photo, 112, 112)[::5, ::5], NUMBERS["zoom/up"])


def test_learning_rates_of_both_networks() -> None:
    """Poly from the first step on; constant in BCP."""
    config = released(steps=int(NUMBERS["lr/total"]))
    (group,) = make_optimizer(config, param_groups(ReleasedUnet(4))).param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
    for step, rates in zip(NUMBERS["lr/steps"].tolist(), NUMBERS["lr/groups"].tolist(), strict=True):
        assert [config.lr * lr_factor(config, step)] * 2 == pytest.approx(rates, rel=1e-9)
    assert lr_factor(released("faithful_bcp"), 30_000) == 1.0


SHARED = {
    "seed": 1337,
    "epochs": None,
    "processes": 1,
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "warmup_steps": 0,
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "labelled_groups": (
        "patient021",
        "patient038",
        "patient049",
        "patient050",
        "patient058",
        "patient099",
        "patient100",
    ),
    "strong_view": True,
    "displace_unlabelled": True,
    "grid": 4,
    "candidates": 4,
    "geometry": "released",
    "jitter": 0.8,
    "cutout": 0.5,
    "cutout_image": True,
    "hole_label": "background",
    "frozen_stages": 0,
    "frozen_depthwise": False,
    "partner_lr_factor": 1.0,
    "test_zoom": "nearest",
    "float_images": True,
    "lend": "any",
    "keep_best": True,
}
CROSS_TEACHING = {
    **SHARED,
    "preset": "faithful",
    "host": "cross_teaching",
    "steps": 30_000,
    "batch": 8,
    "unlabelled_batch": 8,
    "schedule": "poly",
    "poly_power": 0.9,
    "pretrain_share": 0.0,
    "displace_labelled": True,
    "inverse_probability": 0.5,
    "inverse_weight": 2.0,
    "inverse_share": 2 / 3,
    "inverse_idles": True,
    "coin": 0.0,
    "consistency": 0.1,
    "ramp": True,
}
BCP = {
    **SHARED,
    "preset": "faithful_bcp",
    "host": "bcp",
    "steps": 40_000,
    "batch": 12,
    "unlabelled_batch": 12,
    "schedule": "constant",
    "pretrain_share": 0.25,
    "displace_labelled": False,
    "coin": 0.5,
    "consistency": 1.0,
    "ramp": False,
    "paste_both_ways": False,
    "paste_edge": False,
    "halves_apart": True,
    "pseudo_weight": 0.5,
    "ema": 0.99,
    "ema_warm_up": False,
    "teacher_start": "student",
    "teacher_mode": "train",
    "students": "same",
    "whole_background": True,
}
UNET = {"architecture": "ssl4mis_unet", "weights": "random"}
NETWORKS = {
    "cross_teaching": (UNET, {"architecture": "swin_unet", "weights": "hub"}),
    "bcp": (UNET, UNET),
}
ADAMS = {"betas", "warmup_factor"}
NO_RESULT = {"eval_every", "runtime"}
OTHER_HOST = {
    "cross_teaching": {key for key in BCP if key not in CROSS_TEACHING},
    "bcp": {key for key in CROSS_TEACHING if key not in BCP},
}


@pytest.mark.parametrize("recipe", [CROSS_TEACHING, BCP], ids=["cross_teaching", "bcp"])
def test_presets_as_whole_tables(recipe: dict[str, Any]) -> None:
    config = Config(preset=recipe["preset"])
    found = config.model_dump()
    views, networks = found.pop("augment"), (config.network, config.partner)
    found = {key: value for key, value in found.items() if key not in ADAMS | NO_RESULT | {"network", "partner"}}
    assert {key: value for key, value in found.items() if key not in OTHER_HOST[recipe["host"]]} == recipe
    size = {"cross_teaching": 224, "bcp": 256}[recipe["host"]]
    assert (views["size"], views["fit"], views["brightness"], views["contrast"]) == (size, "squash", 0.0, 0.0)
    assert [one.model_dump(exclude_unset=True) for one in networks] == list(NETWORKS[recipe["host"]])
    three = Config(preset=f"{recipe['preset']}_3").model_dump()
    differ = {key: value for key, value in three.items() if value != config.model_dump()[key]}
    patients = ("patient038", "patient050", "patient099")
    assert differ == {"preset": f"{recipe['preset']}_3", "labelled_groups": patients}


def test_promise12_as_its_scripts_have_it() -> None:
    """As Cross Teaching but for lambda (1 throughout), the hole in the label alone, and cases."""
    plain, own = (Config(preset=name).model_dump() for name in ("faithful", "faithful_promise12"))
    differ = {key: value for key, value in own.items() if value != plain[key]}
    assert differ == {
        "preset": "faithful_promise12",
        "labelled_groups": ("Case00", "Case01", "Case02", "Case03", "Case04", "Case05", "Case06"),
        "inverse_weight": 1.0,
        "inverse_share": 1.0,
        "cutout_image": False,
    }
    assert own["eval_every"] == 200, "steps between validations, in all released trainers"


def test_patients_of_the_released_lists() -> None:
    """Labelled are those of the first 68 and 136 slices; the recipe tests those of test.list, whom nobody learns."""
    lists = golden("abd", "lists")
    assert {3: tuple(lists["three"].tolist()), 7: tuple(lists["seven"].tolist())} == LABELLED
    steps = load_recipe("abd-acdc", {}, "out").steps
    tested = [step.config["groups"] for step in steps.values() if step.does == "volumes"]
    assert tested == [lists["test"].tolist()] * 4
    assert not set(tested[0]) & set(lists["learnt"].tolist())
