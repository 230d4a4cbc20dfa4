"""FTMU against numbers of its release: regions, returns, losses, states; J and F against the official evaluator."""

from typing import Any

import numpy as np
import pytest
import torch

from maskmill.trainers.engine.config import Runtime
from maskmill.trainers.ftmu import Config
from maskmill.trainers.ftmu.matching import Template
from maskmill.trainers.ftmu.policies import Head
from maskmill.trainers.ftmu.rollout import Trajectory, Walk, reward
from maskmill.trainers.ftmu.state import state_patch, template_area
from maskmill.trainers.ftmu.train import advantages, losses
from maskmill.vision.video import Motion, RegionConfig, search_region
from maskmill.vision.video.metrics import score_clip, summarise
from tests.golden import fill, golden, picture, uniform

PARTS, DAVIS = golden("ftmu", "parts"), golden("davis", "measures")
FRAME = (480, 854)
REGION = RegionConfig(snap=False, first=0.1, small=0.1, medium=0.4, large=1.2)

torch.set_num_threads(1)


def still(box: Any) -> Motion:
    corners = np.array(box, np.float32)
    return Motion(corners, corners)


def test_regions_are_the_grown_hull() -> None:
    """Left, top and right as released; the bottom too where the hull is square: there the release took its width."""
    squares = 0
    for boxes, (ratio, left, top, right, bottom) in zip(PARTS["boxes"], PARTS["regions"], strict=True):
        config = REGION.model_copy(update={"small": ratio, "medium": ratio})
        found = search_region([still(box) for box in boxes], FRAME, config)
        assert (found.left, found.top, found.left + found.width) == (left, top, right)
        hull = (*boxes.min(0)[:2], *boxes.max(0)[2:])
        if hull[2] - hull[0] == hull[3] - hull[1]:
            squares += 1
            assert found.top + found.height == bottom
        else:
            height = hull[3] - hull[1]
            assert found.top + found.height == min(int(hull[3] + ratio * height), FRAME[0])
    assert squares >= 24


def test_which_size_a_region_has() -> None:
    """0.1 around given boxes and where two overlap, 1.2 after fast motion or a miss, else 0.4; areas by the paper."""
    box, far = [300, 200, 500, 260], [100, 100, 140, 140]
    areas = {"first": 200 * 1.2 * 60 * 1.2, "medium": 200 * 1.8 * 60 * 1.8, "large": 200 * 3.4 * 60 * 3.4}
    first = search_region([still(box)], FRAME, REGION, first=True)
    medium = search_region([still(box)], FRAME, REGION)
    missed = search_region([Motion(still(box).last, still(box).last, 1)], (2000, 2000), REGION)
    for name, found in (("first", first), ("medium", medium), ("large", missed)):
        assert found.height * found.width == pytest.approx(areas[name], rel=0.02)
    fast = Motion(np.array(box, np.float32), np.array(box, np.float32) + 60)
    assert search_region([fast], (2000, 2000), REGION) == missed
    crossing = search_region([still(box), still([450, 200, 520, 250])], FRAME, REGION)
    assert crossing.width == pytest.approx(220 * 1.2, abs=1)
    apart = search_region([still(box), still(far)], FRAME, REGION)
    assert apart.width == pytest.approx(min(500 + 0.4 * 400, 854) - max(100 - 0.4 * 400, 0), abs=1)


def test_returns_of_whole_videos_and_td_errors() -> None:
    rewards, count = PARTS["rewards"].tolist(), 17
    discounts = [0.99] * (count - 1) + [0.0]
    values = uniform("ftmu any values", count).tolist()
    gains, targets = advantages(rewards, values, discounts, 1.0)
    np.testing.assert_allclose(targets, PARTS["returns"], rtol=1e-5)
    np.testing.assert_allclose(gains, PARTS["returns"] - np.array(values), rtol=1e-4)
    _, one_step = advantages(rewards, values, [0.9] * (count - 1) + [0.0], 0.0)
    wanted = [r + 0.9 * v for r, v in zip(rewards, [*values[1:], 0.0], strict=True)]
    wanted[-1] = rewards[-1]
    np.testing.assert_allclose(one_step, wanted, rtol=1e-6)


def test_losses_and_their_gradients() -> None:
    """As released but for units: rewards are taken in hundreds here, and the critic's loss has a half."""
    config = Config(preset="released", segmenter="none")
    actor, critic = Head(4096, config.hidden, 2), Head(4096, config.hidden, 1)
    for head, prefix in ((actor, ""), (critic, "critic ")):
        names = [f"{prefix}linear{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias")]
        own = dict(zip(names, head.state_dict().values(), strict=True))
        head.load_state_dict(dict(zip(head.state_dict(), fill(own).values(), strict=True)))
    path = Trajectory()
    states = uniform("ftmu states", 17, 4096).astype(np.float32)
    for frame, (state, action) in enumerate(zip(states, uniform("ftmu actions", 17) > 0, strict=True)):
        path.decide(state, int(action), frame)
        path.rewards[-1] = float(PARTS["rewards"][frame])
    total, parts = losses(actor, critic, Walk([path], []), config)
    assert float(parts["policy"].detach()) == pytest.approx(float(PARTS["actor_loss"]), rel=1e-4)
    assert 2 * float(parts["value"].detach()) == pytest.approx(float(PARTS["critic_loss"]), rel=1e-4)
    total.backward()  # type: ignore[no-untyped-call]
    policy, value = (head.layers[-1].weight.grad for head in (actor, critic))
    for grad, wanted in ((policy[:, ::37], PARTS["actor_grad"]), (2 * value[0, ::37], PARTS["critic_grad"])):  # type: ignore[index]
        np.testing.assert_allclose(grad.numpy(), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_rewards() -> None:
    for j, cube in zip(PARTS["js"].tolist(), PARTS["cubes"].tolist(), strict=True):
        released = cube / 100 if j > 0.1 else 0.0
        assert reward(j, 0.0) == pytest.approx(released)
        assert reward(j) == pytest.approx(released + 0.1 if j > 0.1 else -0.1)


def test_patches_of_the_state() -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    last, now = picture("ftmu last", 120, 200), picture("ftmu now", 120, 200)
    mask = np.zeros((120, 200), np.bool_)
    mask[30:90, 50:140] = True
    mask[60:80, 100:150] = False
    template = Template(0, last, np.array([40, 20, 110, 95], np.float32))
    for name, patch in (
        ("template", state_patch(last, template_area(template))),
        ("prediction", state_patch(now, mask)),
    ):
        pixels = ((patch / 255 - mean) / std).transpose(2, 0, 1)
        np.testing.assert_allclose(pixels[:, ::16, ::16], PARTS[name], atol=1e-5)
        half = PARTS["state"][3:] if name == "template" else PARTS["state"][:3]
        np.testing.assert_allclose(pixels.mean((1, 2)), half, atol=1e-4)


def test_j_and_f_of_the_official_evaluator() -> None:
    found, truth = DAVIS["found"].astype(np.uint8), DAVIS["truth"].astype(np.uint8)
    score = score_clip(found, truth, [1, 2])
    np.testing.assert_allclose(score.j, DAVIS["j"], atol=1e-9)
    np.testing.assert_allclose(score.f, DAVIS["f"], atol=1e-9)
    for row, wanted in zip((*score.j, *score.f), DAVIS["statistics"].reshape(4, 3), strict=True):
        summary = summarise(row)
        np.testing.assert_allclose([summary.mean, summary.recall, summary.decay], wanted, atol=1e-9)
    without = score_clip(found, truth, [1, 2], void="left_out")
    np.testing.assert_allclose(without.j, DAVIS["j_void_out"], atol=1e-9)
    np.testing.assert_allclose(without.f, DAVIS["f_void_out"], atol=1e-9)


TRACK: dict[str, Any] = {
    "actions": "history",
    "patience": 3,
    "after_rejection": "reset",
    "box_share": 0.5,
    "gate": 0.05,
    "min_similarity": 0.0,
    "aligned": False,
    "assignment": "independent",
    "search_whole_after": 5,
    "region": {"snap": False, "first": 0.1, "small": 0.1, "medium": 0.4, "large": 1.2, "fast": 0.5},
}
PAPER: dict[str, Any] = {  # the paper's numbers, by our names
    "preset": "faithful",
    "seed": 0,
    "steps": 20_000,
    "epochs": None,
    "processes": 1,
    "batch": 20,
    "optimizer": "adam",
    "lr": 1e-4,
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
    "momentum": 0.9,  # not used
    "nesterov": False,
    "schedule": "poly",  # not used: decay_every
    "poly_power": 0.9,
    "warmup_steps": 0,
    "warmup_factor": 1e-6,
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "eval_every": 0,
    "segmenter": "none",
    "segmenter_weights": "hub",
    "length": 10,
    "critic_lr": 5e-4,
    "decay_every": 200,
    "state": "patches",
    "trunk": "resnet50",
    "trunk_weights": "hub",
    "hidden": (2048, 512),
    "discount": 0.9,
    "trace": 0.0,
    "entropy": 0.0,
    "normalise_advantage": False,
    "price": 0.0,
    "warm_start": 0.0,
    "offset": 10.0,
    "track": TRACK,
}
CODE: dict[str, Any] = {  # where the public code differs
    "preset": "released",
    "lr": 1e-6,
    "critic_lr": 5e-6,
    "decay_every": 500,
    "discount": 0.99,
    "trace": 1.0,
    "offset": 0.0,
    "batch": 1,
    "length": 100_000,
    "track": {**TRACK, "patience": None, "box_share": 0.0, "gate": 0.0},
}


def test_presets_as_whole_tables() -> None:
    found = {name: Config(preset=name, segmenter="none").model_dump() for name in ("faithful", "released")}
    assert all(one.pop("runtime") == Runtime().model_dump() for one in found.values())
    assert found["faithful"] == PAPER
    assert found["released"] == {**PAPER, **CODE}
    assert found["released"]["lr"] == pytest.approx(float(PARTS["lr"][0]))
    assert found["released"]["critic_lr"] == pytest.approx(float(PARTS["lr"][1]))
