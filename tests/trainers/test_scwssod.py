"""The trainer scwssod: conformance, network, losses, the release's faults, schedule and labels."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE
from maskmill.pipelines.stages.train import TrainConfig, train
from maskmill.trainers.engine import AugmentConfig, DataConfig, Samples, lr_factor, sample_rng
from maskmill.trainers.scribbles import ScribbleView, balanced_pce, scribbled
from maskmill.trainers.scwssod import Config
from maskmill.trainers.scwssod.config import SmallNorm
from maskmill.trainers.scwssod.losses import (
    coherence,
    coherence_kernel,
    repository_coherence,
    shrink,
    ssim,
    structure_consistency,
)
from maskmill.trainers.scwssod.model import Aggregate, SaliencyNet
from maskmill.trainers.scwssod.train import _norms, build, dense_ce, scribble_loss
from maskmill.vision.scribbles import resize_scribble
from tests.trainers import shapes
from tests.trainers.conformance import TrainerConformance
from tests.trainers.scribble_data import FOREGROUND, write_scribbled

WHOLE: dict[str, Any] = {
    "pce": "nll",
    "lsc_heads": "all",
    "ssc_weight": 1.0,
    "fusion": "aggm",
}  # what starter leaves out
SETTINGS: dict[str, Any] = {
    "augment": {"size": 48, "fit": "squash"},
    "encoder": "mobilenetv3_small_050",
    "encoder_weights": "random",
    "width": 8,
    "lsc_radius": 2,
    **WHOLE,
}


class TestScwssod(TrainerConformance):
    name = "scwssod"
    settings: ClassVar = SETTINGS
    space: ClassVar = FOREGROUND

    def write_data(self, folder: Path, shards: int) -> DataConfig:
        return write_scribbled(folder, 6, self.space, shards)


@pytest.fixture(scope="module")
def net() -> SaliencyNet:
    torch.manual_seed(0)
    return build(Config(**SETTINGS), "random").eval()


@pytest.mark.parametrize("size", [(64, 96), (50, 77)])
def test_four_heads_at_input_size_for_any_size(net: SaliencyNet, size: tuple[int, int]) -> None:
    heads = net(torch.randn(2, 3, *size))
    assert [tuple(z.shape) for z in heads] == [(2, 1, *size)] * 4
    strides = [f.shape[2] for f in net.encoder(torch.randn(1, 3, 64, 64))]
    assert strides == [16, 8, 4, 2]


def test_aggm_is_a_mean_under_any_scale_of_its_weights() -> None:
    module = Aggregate(4, 8, "aggm", "raw")
    parts = [torch.randn(2, 8, 3, 3) for _ in range(3)]
    scores = torch.tensor([[0.5, -2.0], [1.0, 0.3], [0.2, 0.4]])
    torch.testing.assert_close(module.weigh(parts, 7 * scores), module.weigh(parts, scores))
    first = torch.tensor([[3.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(module.weigh(parts, first), parts[0])
    assert module.smallest == 1.0
    assert torch.isfinite(module.weigh(parts, torch.zeros(3, 2))).all()
    soft = Aggregate(4, 8, "aggm", "softmax").weigh(parts, torch.zeros(3, 2))
    plain = Aggregate(4, 8, "mean", "raw")
    torch.testing.assert_close(soft, plain.fuse(parts))
    assert not list(plain.scores)


def test_new_convolutions_start_from_kaiming_and_norms_from_1_and_0(net: SaliencyNet) -> None:
    weight = net.refines[0].affine.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    assert float(weight.detach().std()) == pytest.approx((2 / (8 * 9)) ** 0.5, rel=0.1)
    norms = [m for m in net.top.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


# --- losses


def test_pce_weighs_both_classes_alike_and_ignores_the_rest() -> None:
    z = torch.randn(2, 1, 6, 6).requires_grad_()
    labels = torch.full((2, 6, 6), IGNORE)
    labels[0, 0, :3], labels[1, 5, :2] = 1, 0
    loss = balanced_pce(z, labels)
    grad = torch.autograd.grad(loss, z)[0][:, 0]
    assert int((grad != 0).sum()) == 5
    torch.testing.assert_close(
        loss, F.softplus(-z[0, 0, 0, :3]).mean() + F.softplus(z[1, 0, 5, :2]).mean(), rtol=1e-6, atol=1e-6
    )
    twice = balanced_pce(torch.cat([z, z[1:]]), torch.cat([labels, labels[1:]]))
    torch.testing.assert_close(twice, loss)
    only = labels.masked_fill(labels == 0, IGNORE)
    assert torch.isfinite(balanced_pce(z, only))
    assert balanced_pce(z, torch.full((2, 6, 6), IGNORE)).item() == 0.0


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.313), (0.5, 0.693), (0.9, 0.371), (1.0, 0.313)])
def test_pce_of_the_release_never_reaches_0(p: float, expected: float) -> None:
    z = torch.logit(torch.full((1, 1, 1, 1), p), eps=1e-7)
    foreground = torch.ones(1, 1, 1, dtype=torch.long)
    assert balanced_pce(z, foreground, "softmax_of_prob").item() == pytest.approx(expected, abs=1e-3)


def test_structure_consistency_is_ssim_and_l1_of_both_maps() -> None:
    x, y = torch.rand(1, 1, 9, 7).requires_grad_(), torch.rand(1, 1, 9, 7).requires_grad_()
    assert structure_consistency(x, x).item() == pytest.approx(0, abs=1e-6)
    loss = structure_consistency(x, y)
    torch.testing.assert_close(loss, structure_consistency(y, x))
    assert 0 < loss.item() < 1
    grads = torch.autograd.grad(loss, [x, y])
    assert grads[0].any()
    assert grads[1].any()
    apart = structure_consistency(torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32))
    assert apart.item() == pytest.approx(0.575, abs=2e-3)
    a, b = x.detach()[0, 0], y.detach()[0, 0]
    pad_a, pad_b = F.pad(a, (1, 1, 1, 1)), F.pad(b, (1, 1, 1, 1))
    u, v = pad_a[3:6, 2:5], pad_b[3:6, 2:5]  # the window of pixel (3, 2)
    cov = (u * v).mean() - u.mean() * v.mean()
    var = (u**2).mean() - u.mean() ** 2 + (v**2).mean() - v.mean() ** 2
    by_hand = (2 * u.mean() * v.mean() + 1e-4) * (2 * cov + 9e-4)
    by_hand = by_hand / ((u.mean() ** 2 + v.mean() ** 2 + 1e-4) * (var + 9e-4))
    assert ssim(x, y)[0, 0, 3, 2].item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_the_release_leaks_at_borders_and_loses_its_colours_head_by_head() -> None:
    """Repository mode keeps both faults; ours has neither."""
    grey, ones = torch.zeros(1, 3, 80, 80), torch.ones(1, 1, 80, 80)
    assert repository_coherence(ones, grey, 5, 6.0, 0.1, 1).item() == pytest.approx(0.36, abs=0.01)
    assert coherence(ones, coherence_kernel(grey, 5, 6.0, 0.1), 5).item() == 0.0
    torch.manual_seed(0)
    image, p = 0.2 * torch.randn(1, 3, 24, 24), torch.rand(1, 1, 24, 24)
    values = [repository_coherence(p, image, 5, 6.0, 0.1, n).item() for n in (1, 2, 3, 4)]
    assert values[0] > 10 * values[1]
    assert values[1] > 10 * values[2]
    assert values[3] < 1e-6
    # Away from the borders the first head's is ours.
    inner = torch.zeros_like(p)
    inner[..., 10:14, 10:14] = p[..., 10:14, 10:14]
    ours = coherence(inner, coherence_kernel(image, 5, 6.0, 0.1), 5)
    torch.testing.assert_close(repository_coherence(inner, image, 5, 6.0, 0.1, 1), ours, rtol=1e-4, atol=1e-6)


def test_total_weighs_the_heads_and_main_leaves_coherence_to_head_2() -> None:
    torch.manual_seed(0)
    heads = [torch.randn(1, 1, 32, 32) for _ in range(4)]
    labels = torch.full((1, 32, 32), IGNORE)
    labels[0, 3], labels[0, 20] = 0, 1
    batch = {"plain": 0.1 * torch.randn(1, 3, 32, 32)}

    def parts(**changes: Any) -> tuple[float, float, float]:
        loss, notes = scribble_loss(Config(**WHOLE | changes), heads, labels, batch)
        return loss.item(), notes["pce"].item(), notes["coherence"].item()

    loss, pce, everywhere = parts()
    weights = (1.0, 0.8, 0.6, 0.4)
    expected = [w * balanced_pce(z, labels).item() for w, z in zip(weights, heads, strict=True)]
    assert pce == pytest.approx(sum(expected), rel=1e-5)
    assert loss == pytest.approx(pce + 0.3 * everywhere, rel=1e-5)
    _, _, main = parts(lsc_heads="main")
    image = shrink(batch["plain"], 0.25)
    one = coherence(shrink(heads[0].sigmoid(), 0.25), coherence_kernel(image, 5, 6.0, 0.1), 5).item()
    assert main == pytest.approx(one, rel=1e-5)
    assert everywhere > main
    assert parts(lsc_form="repository")[2] != pytest.approx(everywhere, rel=1e-3)


def test_coherence_spreads_strokes_along_true_colours_only() -> None:
    """A blob on textured ground, free logits: coherence helps, and with the colours of another picture it does not."""
    torch.manual_seed(0)
    truth = torch.zeros(16, 16)
    truth[4:12, 5:12] = 1
    image = torch.stack([truth, 1 - truth, 0 * truth])[None] + 0.03 * torch.randn(1, 3, 16, 16)
    foreign = image.flatten(2)[:, :, torch.randperm(256)].view_as(image)
    labels = torch.full((1, 16, 16), IGNORE)
    labels[0, 8, 6:10], labels[0, 1, 2:14] = 1, 0

    def error(colours: Tensor | None) -> float:
        z = (0.1 * torch.randn(1, 1, 16, 16)).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=0.2)
        for _ in range(60):
            loss = balanced_pce(z, labels)
            if colours is not None:
                loss = loss + 0.3 * coherence(z.sigmoid(), coherence_kernel(colours, 3, 6.0, 0.1), 3)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return float((z.detach().sigmoid()[0, 0] - truth).abs().mean())

    alone = error(None)
    assert error(image) < alone - 0.15
    assert error(foreign) > alone - 0.1


def test_dense_supervision_is_plain_cross_entropy() -> None:
    z, labels = torch.randn(1, 1, 4, 4), torch.randint(0, 2, (1, 4, 4))
    expected = F.binary_cross_entropy_with_logits(z[0, 0], labels[0].float())
    torch.testing.assert_close(dense_ce(z, labels), expected)
    assert dense_ce(z, torch.full((1, 4, 4), IGNORE)).item() == 0.0


@pytest.mark.parametrize(("how", "moves", "whose"), [("frozen", 0, 0), ("own", 0, 1), ("shared", 1, 1)])
def test_norms_of_the_small_pass(how: SmallNorm, moves: int, whose: int) -> None:
    """`frozen` uses the stored statistics, `own` and `shared` those of the pass; `shared` alone stores them."""
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.BatchNorm2d(3, track_running_stats=False))
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) + 3
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with _norms(model, how):
        mean = float(norm(images).mean().detach())
    assert mean == pytest.approx(0 if whose else float(images.mean()), abs=1e-4)
    state = norm.state_dict()
    assert all(torch.equal(state[key], before[key]) != moves for key in ("running_mean", "running_var"))
    assert all(module.training for module in model)
    assert [module.track_running_stats for module in model if isinstance(module, nn.BatchNorm2d)] == [True, False]


# --- schedule, labels, settings


def test_faithful_schedule_is_a_triangle_between_1e5_and_1e2() -> None:
    config = Config(preset="faithful", steps=1000)
    rates = [config.lr * lr_factor(config, step) for step in (0, 250, 500, 1000)]
    assert rates == pytest.approx([1e-5, (1e-5 + 1e-2) / 2, 1e-2, 1e-5])
    assert (config.momentum, config.nesterov, config.encoder_lr_factor) == (0.9, True, 0.1)
    assert (config.pce, config.lsc_heads, config.lsc_form) == ("softmax_of_prob", "main", "exact")
    assert (config.gate, config.ssc_norm, config.ramp_at(0)) == ("raw", "shared", 1.0)
    assert Config(preset="repository").lsc_form == "repository"
    starter = Config(steps=100, ramp=0.3)
    assert (starter.pce, starter.lsc_heads, starter.ssc_weight) == ("softmax_of_prob", "main", 0.0)
    assert (starter.fusion, starter.lsc_weight, starter.scribble_resize) == ("mean", 0.3, "any")
    assert [starter.ramp_at(step) for step in (0, 15, 30, 99)] == [0.0, 0.5, 1.0, 1.0]


def test_labels_stay_0_1_255_and_faithful_ones_are_nearest_neighbour(tmp_path: Path) -> None:
    data = write_scribbled(tmp_path, 3, FOREGROUND)
    samples = scribbled(Samples.open(data, str(tmp_path / "cache")), "scribbles")
    augment = AugmentConfig(size=37, fit="squash", flip=0.0)
    for position in range(3):
        example = samples.example(position)
        assert example.mask is None, "true masks stay closed"
        assert example.scribble is not None
        rng = sample_rng(0, example.info.sample_id, 0)
        view = ScribbleView(augment, (0, 0, 0), (1, 1, 1), "scribbles", "nearest")
        labels = view(example, rng)["labels"].numpy()
        assert set(np.unique(labels).tolist()) <= {0, 1, IGNORE}
        np.testing.assert_array_equal(labels, resize_scribble(example.scribble, 37, 37, "nearest"))


def test_spaces_of_several_classes_are_refused(tmp_path: Path) -> None:
    data = write_scribbled(tmp_path / "data", 2, shapes.SPACE)
    config = TrainConfig(trainer="scwssod", label_space=shapes.SPACE, data=data, settings={**SETTINGS, "steps": 1})
    with pytest.raises(ValueError, match=r"label_space: foreground, or train `dfr`"):
        train(config, str(tmp_path / "run"), str(tmp_path / "artifact"))
