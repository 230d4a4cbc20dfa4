"""HDMNet's decoder against PI-CLIP's release: logits of one and five shots, correlations, losses, gradients."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.base import Decoded, HdmnetDecoder, masked_mean, released_distillation
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.scl import cross_entropy
from tests.golden import fill, golden, uniform

torch.set_num_threads(1)

NUMBERS = golden("pi_clip", "decoder")
GRID, SIDE = 16, 61
MERGES = ("query_merge.", "support_merge.")


def by_formula(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(uniform(name, *shape)).float()


@cache
def decoder(shots: int) -> HdmnetDecoder:
    built = HdmnetDecoder(256, 2 + 2 * shots)
    state = built.state_dict()
    own = fill({key: value for key, value in state.items() if not key.startswith(MERGES)}, gain=1.2)
    for key in own:
        if key.endswith("running_var"):
            own[key] = 1 + 0.01 * by_formula(key, *own[key].shape).abs()
    built.load_state_dict({**state, **own})
    return built.eval()


@cache
def decoded(shots: int) -> Decoded:
    merged = by_formula("hdm query", 2, 64, GRID, GRID).relu()
    shown = [by_formula(f"hdm support {i}", 2, 64, GRID, GRID).relu() for i in range(shots)]
    coarse = [(by_formula(f"hdm mask {i}", 2, 1, GRID // 4, GRID // 4) > 0).float() for i in range(shots)]
    masks = [one.repeat_interleave(4, 2).repeat_interleave(4, 3) for one in coarse]
    vtp = by_formula("hdm vtp", 2, 1, GRID, GRID).abs().repeat(1, 2, 1, 1)
    vvp = by_formula("hdm vvp", 2, 2 * shots, GRID, GRID).abs()
    return decoder(shots).match(merged, shown, masks, torch.cat([vtp, vvp], dim=1))


def truth() -> Tensor:
    target = np.zeros((2, SIDE, SIDE), np.int64)
    target[0, 10:40, 5:30], target[1, 20:50, 30:55] = 1, 1
    target[:, :3] = 255
    return torch.from_numpy(target)


def test_every_weight_has_its_place() -> None:
    own = {key: value for key, value in decoder(1).state_dict().items() if not key.startswith(MERGES)}
    assert set(own) == set(NUMBERS["keys"].tolist())
    learnt = [p.numel() for key, p in decoder(1).named_parameters() if not key.startswith(MERGES)]
    assert sum(learnt) == int(NUMBERS["parameters"]) == 3_313_090


@pytest.mark.parametrize(("shots", "record"), [(1, "logits"), (5, "logits5")])
def test_logits(shots: int, record: str) -> None:
    np.testing.assert_allclose(decoded(shots).logits.detach().numpy(), NUMBERS[record], atol=2e-4)


def test_correlations() -> None:
    """Coarse to fine: 4, 8, 16 cells a side."""
    for number, found in enumerate(decoded(1).correlations):
        np.testing.assert_allclose(found.detach().numpy(), NUMBERS[f"correlation/{number}"], atol=1e-5)


def test_losses_and_their_gradients() -> None:
    decoder(1).zero_grad()
    distillation = released_distillation(decoded(1).correlations, truth())
    crossed = cross_entropy(decoded(1).logits, truth())
    assert float(distillation.detach()) == pytest.approx(float(NUMBERS["distillation"]), abs=1e-5)
    assert float(crossed.detach()) == pytest.approx(float(NUMBERS["ce"]), abs=1e-5)
    (distillation + crossed).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    own = dict(decoder(1).named_parameters())
    names = [key.removeprefix("grad/") for key in NUMBERS if key.startswith("grad/")]
    assert len(names) == 6
    for name in names:
        gradient = own[name].grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(float(NUMBERS[f"gradnorm/{name}"]), rel=2e-3), name
        some = gradient.flatten()[:: max(1, gradient.numel() // 61)][:61].numpy()
        scale = float(np.abs(NUMBERS[f"grad/{name}"]).max())
        np.testing.assert_allclose(some / scale, NUMBERS[f"grad/{name}"] / scale, atol=5e-3, err_msg=name)


def test_norms_stay_as_they_are_in_training() -> None:
    built = HdmnetDecoder(16, 1).train()
    before = {key: value.clone() for key, value in built.state_dict().items() if "running" in key}
    maps, mask = torch.rand(2, 16, 8, 8), torch.ones(2, 1, 8, 8)
    built(maps, [maps], [mask], masked_mean(maps, mask), torch.rand(2, 1, 8, 8))
    assert all(torch.equal(value, built.state_dict()[key]) for key, value in before.items())
    assert built.training
    assert built.matching[0].mlp[3].training, "dropout is on"  # type: ignore[union-attr, index]


def test_merges() -> None:
    """What enters them: a support beside its own mean, the query beside the mean of all, priors ten times."""
    built = decoder(1)
    seen: dict[str, list[Tensor]] = {"query_merge": [], "support_merge": []}
    hooks = [
        getattr(built, name).register_forward_hook(lambda _, given, __, name=name: seen[name].append(given[0]))
        for name in seen
    ]
    maps = [by_formula(f"merge {i}", 1, 256, 8, 8) for i in range(3)]
    masks = [(by_formula(f"merge mask {i}", 1, 1, 8, 8) > 0).float() for i in range(2)]
    means = [masked_mean(m, mask) for m, mask in zip(maps[1:], masks, strict=True)]
    priors = by_formula("merge priors", 1, 4, 8, 8)
    with torch.no_grad():
        built(maps[0], maps[1:], masks, (means[0] + means[1]) / 2, priors)
    for hook in hooks:
        hook.remove()
    wide = [mean.expand(-1, -1, 8, 8) for mean in (*means, (means[0] + means[1]) / 2)]
    torch.testing.assert_close(seen["query_merge"][0], torch.cat([maps[0], wide[2], 10 * priors], dim=1))
    for given, one, mean in zip(seen["support_merge"], maps[1:], wide, strict=False):
        torch.testing.assert_close(given, torch.cat([one, mean], dim=1))


def test_the_preset_builds_it() -> None:
    small = Config.model_validate({"preset": "pi_clip", "width": 16})
    net = FewShotNet(small, 8, small.prior_channels)
    assert isinstance(net.decoder, HdmnetDecoder)
    assert net.decoder.query_merge[0].weight.shape[1] == 2 * 16 + 4
