"""What a step of `scwssod` adds up, the gates of AGGM, the control without gates, the floor, and the measures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import DataConfig
from maskmill.trainers.scribbles import ScribbleRun
from maskmill.trainers.scwssod import Config
from maskmill.trainers.scwssod.config import DUTS
from maskmill.trainers.scwssod.losses import repository_coherence, structure_consistency
from maskmill.trainers.scwssod.model import SMALLEST, Aggregate
from maskmill.trainers.scwssod.train import _watched, build, consistency, optimised
from maskmill.vision.segmenters import IMAGENET
from tests.trainers.scribble_data import FOREGROUND, write_scribbled
from tests.trainers.test_scwssod import SETTINGS

torch.set_num_threads(1)

STEPS = 4
Learn = tuple[float, dict[str, float]]


def network(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build(Config.model_validate({**SETTINGS, **changes}), "random")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[list[Learn], Config]:
    """Loss and notes of every step."""
    learnt: list[Learn] = []
    learn: Callable[..., None] = ScribbleRun.learn

    def noted(self: ScribbleRun, loss: Tensor, **notes: Any) -> None:
        learnt.append((float(loss.detach()), {key: float(value) for key, value in notes.items()}))
        learn(self, loss, **notes)

    monkeypatch.setattr(ScribbleRun, "learn", noted)
    runtime = {"device": "cpu", "threads": 1, "progress": False}
    settings = {**SETTINGS, "steps": STEPS, "batch": 2, "precision": "fp32", "runtime": runtime, **changes}
    data = write_scribbled(folder / "data", 4, FOREGROUND)
    val = DataConfig(samples=data.samples)
    data = val if changes.get("supervision") == "masks" else data
    config = TrainConfig(trainer="scwssod", label_space=FOREGROUND, data=data, val=val, settings=settings)
    train(config, str(folder / "run"), str(folder / "artifact"))
    return learnt, Config.model_validate(settings)


def test_a_step_is_the_sum_of_its_losses_and_training_reports_saliency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt, config = run(tmp_path, monkeypatch, lsc_weight=0.7, ssc_weight=0.4, ramp=0.5, gate="raw")
    for step, (loss, notes) in enumerate(learnt):
        ramp = min(1.0, step / 2)
        assert config.ramp_at(step) == ramp
        extra = 0.7 * notes["coherence"] + 0.4 * notes["consistency"]
        assert loss == pytest.approx(notes["pce"] + ramp * extra, rel=1e-5)
        assert notes["coherence"] > 1e-4
        assert notes["consistency"] > 1e-4
        assert notes["aggm_denominator"] > 0
    metrics = json.loads((tmp_path / "artifact" / "metrics.json").read_text())
    assert {"s", "max_f", "adaptive_f", "mean_e", "mae", "images"} <= set(metrics)
    assert metrics["images"] == 4


def test_masks_have_nothing_of_the_method_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt, _ = run(tmp_path, monkeypatch, supervision="masks", steps=1)
    assert set(learnt[0][1]) == {"aggm_denominator"}


def test_the_denominator_is_watched_where_it_may_reach_0() -> None:
    assert [_watched(Config(gate=gate, fusion="aggm")) for gate in ("raw", "neutral", "softmax")] == [True, True, False]
    assert not _watched(Config(gate="raw", fusion="cat"))


# --- gates


def parts(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 8, 4, 4, generator=generator) for _ in range(3)]


def test_neutral_gates_begin_as_the_mean_and_move() -> None:
    """All three scores begin at 1; one step of the usual rate moves a share by a thousandth or more."""
    net = network(gate="neutral").train()
    gates: list[Any] = list(net.aggregates)
    for gate in gates:
        torch.testing.assert_close(gate.fuse(parts()), torch.stack(parts()).mean(dim=0))
        assert [float(score.bias) for score in gate.scores] == [1, 1, 1]
        assert not any(score.weight.any() for score in gate.scores)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(3):
        optimizer.zero_grad()
        logits = net(torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)))[0]
        torch.autograd.backward(logits.square().mean())
        optimizer.step()
    for gate in gates:
        scores = torch.stack([conv(part).mean(dim=(1, 2, 3)) for conv, part in zip(gate.scores, parts(), strict=True)])
        shares = scores / scores.sum(dim=0)
        assert (shares - 1 / 3).abs().max() > 1e-3
    assert Config().gate == "neutral"


def test_raw_gates_begin_at_random_and_softmax_ones_at_the_mean() -> None:
    assert network(gate="raw").aggregates[0].scores[0].weight.any()
    soft = network(gate="softmax").aggregates[0]
    assert not soft.scores[0].weight.any()
    assert float(soft.scores[0].bias) == 0
    scores = torch.tensor([[24.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    shares = (scores / (9 * 8) ** 0.5).softmax(dim=0)
    expected = sum(share[:, None, None, None] * z for share, z in zip(shares, parts(), strict=True))
    torch.testing.assert_close(soft.weigh(parts(), scores), torch.as_tensor(expected))


@pytest.mark.parametrize(("total", "least"), [(3e-5, SMALLEST), (-3e-5, -SMALLEST), (0.5, 0.5)])
def test_the_floor_keeps_the_sum_away_from_0_and_the_release_does_not(total: float, least: float) -> None:
    scores = torch.full((3, 2), total / 3)
    floored, released = (Aggregate(4, 8, "aggm", "raw", floor=floor) for floor in (True, False))
    mean = torch.stack(parts()).mean(dim=0)
    torch.testing.assert_close(floored.weigh(parts(), scores), mean * (total / least), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(released.weigh(parts(), scores), mean, rtol=1e-4, atol=1e-6)
    assert float(floored.smallest) == pytest.approx(abs(total))
    assert SMALLEST == 1e-4


def test_cat_puts_all_three_beside_each_other() -> None:
    module: Any = Aggregate(4, 8, "cat", "raw")
    assert module.fuse(parts()).shape == (2, 24, 4, 4)
    for place, part in enumerate(parts()):
        torch.testing.assert_close(module.fuse(parts())[:, 8 * place : 8 * place + 8], part)
    assert module.out[0].in_channels == 24
    assert not module.scores
    heads = network(fusion="cat")(torch.randn(1, 3, 48, 48))
    assert [tuple(z.shape) for z in heads] == [(1, 1, 48, 48)] * 4


def test_context_reaches_every_level() -> None:
    """Each level has a context of its own, gated by the deepest features: silence one, and its level changes."""
    net = network().eval()
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = net(images)
        for level in range(3):
            context = net.contexts[level]
            kept = context.gate[3].bias.clone()
            context.gate[3].bias.fill_(-50)  # a gate that is shut
            changed = [not torch.equal(a, b) for a, b in zip(before, net(images), strict=True)]
            assert changed == [True] * (level + 1) + [False] * (3 - level), level
            context.gate[3].bias.copy_(kept)


def test_control_and_method_begin_alike_but_for_their_gates() -> None:
    states = {fusion: network(fusion=fusion).state_dict() for fusion in ("aggm", "mean", "cat")}
    for fusion in ("mean", "cat"):
        other = states[fusion]
        same = [key for key, value in states["aggm"].items() if key in other and other[key].shape == value.shape]
        assert all(torch.equal(states["aggm"][key], other[key]) for key in same)
        assert set(states["aggm"]) - set(other) == {k for k in states["aggm"] if ".scores." in k}
    torch.manual_seed(1)
    other_seed = build(Config(**SETTINGS), "random").state_dict()
    assert not torch.equal(other_seed["heads.0.weight"], states["aggm"]["heads.0.weight"])


# --- the rest


def test_consistency_sees_the_main_head_and_reaches_both_passes() -> None:
    net = network().train()
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    main = torch.randn(2, 1, 48, 48, requires_grad=True)
    config = Config.model_validate({**SETTINGS, "ssc_norm": "shared"})
    loss = consistency(config, net, main, images)
    torch.autograd.backward(loss)
    assert main.grad is not None
    assert main.grad.abs().sum() > 0
    head = net.heads[0].weight.grad
    assert isinstance(head, Tensor)
    assert head.abs().sum() > 0
    assert net.heads[1].weight.grad is None
    a, b = torch.rand(1, 1, 6, 6), torch.rand(1, 1, 6, 6)
    default = structure_consistency(a, b)
    torch.testing.assert_close(default, structure_consistency(a, b, 0.85))


def test_groups_hold_everything_once() -> None:
    net = network()
    encoder, rest = optimised(net, 0.1)
    assert (encoder.lr_factor, rest.lr_factor) == (0.1, 1.0)
    assert sum(p.numel() for g in (encoder, rest) for p in g.params) == sum(p.numel() for p in net.parameters())
    assert {id(p) for p in encoder.params} == {id(p) for p in nn.Module.parameters(net.encoder)}


def test_colours_follow_the_config() -> None:
    assert Config(encoder="resnet50").colours == IMAGENET
    assert Config().colours == ((0.5,) * 3, (0.5,) * 3), "of the starter's encoder"
    assert Config(normalisation="duts").colours == DUTS
    assert DUTS[0][0] * 255 == pytest.approx(124.55)
    assert DUTS[1][2] * 255 == pytest.approx(57.50)


def test_the_release_s_coherence_by_hand() -> None:
    """One row of two pixels, radius 1: the pair counts twice, and each pixel meets seven black ones outside."""
    p = torch.tensor([[[[0.2, 0.7]]]], dtype=torch.float64)
    image = torch.tensor([[[[0.1, 0.3]]]], dtype=torch.float64).expand(1, 3, 1, 2)
    for divisions in (1, 2):
        colours = image[0, 0, 0] / 0.5**divisions
        places = torch.tensor([0.0, 1.0], dtype=torch.float64) / 2.0
        near = torch.exp(-0.5 * (3 * (colours[0] - colours[1]) ** 2 + (places[0] - places[1]) ** 2)) * 0.5
        outside = [torch.exp(-0.5 * (3 * colours[i] ** 2 + places[i] ** 2)) * p[0, 0, 0, i] for i in range(2)]
        expected = (2 * near + 7 * outside[0] + 7 * outside[1]) / 2
        found = repository_coherence(p, image, 1, 2.0, 0.5, divisions)
        assert float(found) == pytest.approx(float(expected))
