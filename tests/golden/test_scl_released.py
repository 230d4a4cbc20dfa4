"""SCL on PFENet against its release: both looks at the support, the query, losses, gradients, five shots."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.trainers.engine import lr_factor, make_optimizer
from maskmill.trainers.few_shot import Config
from maskmill.trainers.few_shot.canvas import corner, enlarged
from maskmill.trainers.few_shot.model import FewShotNet, SelfGuided
from maskmill.trainers.few_shot.priors import plain_prior
from maskmill.trainers.few_shot.released import own_name
from maskmill.trainers.few_shot.scl import decoded_loss, guide, scl_loss, weighted_sum
from maskmill.trainers.few_shot.train import optimizer_groups
from tests.golden import bars, fill, golden, picture, uniform

torch.set_num_threads(1)

GRID, BINS = 16, (16, 9, 5, 2)
SIDE = 8 * (GRID - 1) + 1
NUMBERS = golden("scl", "train")
CLOSE = 5e-5
RELEASED = Config.model_validate({"preset": "scl", "scales": BINS, "encoder_weights": "random"})


@cache
def net() -> FewShotNet:
    built = FewShotNet(RELEASED, 1536, 1)
    state = fill(built.state_dict(), gain=1.5)
    state["decoder.head.3.bias"] += torch.tensor([0.0, 4.75])  # so that part of each object is found, and part missed
    built.load_state_dict(state)
    return built.eval()


@cache
def levels(number: int) -> dict[int, Tensor]:
    return {
        level: torch.from_numpy((uniform(f"scl layer{level} {number}", width, GRID, GRID) + 1) / 2).float()
        for level, width in ((2, 512), (3, 1024))
    }


def middle(number: int) -> Tensor:
    """The release concatenates the deeper level first."""
    return torch.cat([levels(number)[3], levels(number)[2]])


def target(name: str) -> Tensor:
    """A block of the object inside a strip of 255."""
    top, left = (int(10 + 20 * (u + 1)) for u in uniform(name, 2))
    out = np.zeros((SIDE, SIDE), np.int64)
    out[top - 3 : top + 57, left - 3 : left + 45] = 255
    out[top : top + 54, left : left + 42] = 1
    return torch.from_numpy(out)


def at_grid(mask: Tensor) -> Tensor:
    return F.interpolate((mask == 1).float()[:, None], (GRID, GRID), mode="bilinear", align_corners=True)


def prior(query: int, supports: list[int]) -> Tensor:
    """PFENet's prior of a query by each support alone, (K, 1, h, w); the last stage is a 1x1 convolution by formula."""
    last = torch.from_numpy(uniform("scl layer4", 32, 1024, 1, 1)).float()
    high = F.conv2d(levels(query)[3][None], last).relu()[0]
    found = []
    for number in supports:
        mask = at_grid(target(f"scl s{number}")[None])
        seen = F.conv2d(levels(number)[3][None] * mask, last).relu()[0]
        found.append(plain_prior(high, [(seen, mask[0, 0])]))
    return torch.stack(found)[:, None]


@cache
def trained() -> SelfGuided:
    """The training pass over two episodes: queries 1 and 2, supports 3 and 4."""
    masks = at_grid(torch.stack([target("scl s3"), target("scl s4")]))[:, None]
    priors = torch.cat([prior(1, [3]), prior(2, [4])])
    supports = torch.stack([middle(3), middle(4)])[:, None]
    return net().self_guided(torch.stack([middle(1), middle(2)]), supports, masks, priors)


def test_every_weight_has_its_place() -> None:
    assert {own_name(key) for key in NUMBERS["keys"].tolist()} == set(net().state_dict())


def test_prior() -> None:
    """From a support that is masked before the encoder's last stage, and behind it again."""
    found = torch.cat([prior(1, [3]), prior(2, [4])])
    np.testing.assert_allclose(found.numpy(), NUMBERS["prior"], atol=1e-5)


def test_both_looks_at_the_support_and_the_query() -> None:
    for name in ("first", "second", "query"):
        logits = getattr(trained(), name).logits.detach().numpy()
        assert np.abs(NUMBERS[name]).max() > 0.05
        np.testing.assert_allclose(logits, NUMBERS[name], atol=CLOSE, err_msg=name)


def test_primary_and_auxiliary_vectors() -> None:
    masks = at_grid(torch.stack([target("scl s3"), target("scl s4")]))
    with torch.no_grad():
        features = net().down_support(torch.stack([middle(3), middle(4)]))
        found = guide(net()._pyramid(), features, masks)
    assert 0.05 < (NUMBERS["predicted"] * masks.numpy()).sum() / masks.sum() < 0.95, "both parts are there"
    np.testing.assert_allclose(found.primary[..., 0, 0].numpy(), NUMBERS["primary"], atol=CLOSE)
    np.testing.assert_allclose(found.auxiliary[..., 0, 0].numpy(), NUMBERS["auxiliary"], atol=CLOSE)


def loss() -> Tensor:
    queries = torch.stack([target("scl q1"), target("scl q2")])
    supports = torch.stack([target("scl s3"), target("scl s4")])
    weights = {
        "support_weight": RELEASED.support_weight,
        "inner_weight": RELEASED.inner_weight,
        "object_weight": RELEASED.object_weight,
        "support_object_weight": RELEASED.support_object_weight,
    }
    return scl_loss(trained().query, trained().first, trained().second, queries, supports, **weights)


def test_losses() -> None:
    """Main and inner terms of the query and of both looks at the support."""
    queries = torch.stack([target("scl q1"), target("scl q2")])
    supports = torch.stack([target("scl s3"), target("scl s4")])
    pairs = ((trained().query, queries), (trained().first, supports), (trained().second, supports))
    main = float(sum(decoded_loss(decoded, truth, 0.0).detach() for decoded, truth in pairs))
    assert main == pytest.approx(float(NUMBERS["main"]), abs=1e-5)
    assert float(loss().detach()) == pytest.approx(float(NUMBERS["main"] + NUMBERS["aux"]), abs=1e-5)


def test_gradients() -> None:
    net().zero_grad()
    loss().backward(retain_graph=True)  # type: ignore[no-untyped-call]
    own = dict(net().named_parameters())
    names = [key.removeprefix("grad/") for key in NUMBERS if key.startswith("grad/")]
    assert len(names) == 9
    for name in names:
        gradient = own[own_name(name)].grad
        assert gradient is not None, name
        assert float(gradient.norm()) == pytest.approx(float(NUMBERS[f"gradnorm/{name}"]), rel=1e-3), name
        some = gradient.flatten()[:: max(1, gradient.numel() // 101)][:101].numpy()
        scale = float(np.abs(NUMBERS[f"grad/{name}"]).max())
        np.testing.assert_allclose(some / scale, NUMBERS[f"grad/{name}"] / scale, atol=2e-3, err_msg=name)


def full(logits: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    canvas = F.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=True)
    return canvas[:, :, ::4, ::4].detach().numpy()


def test_one_shot() -> None:
    masks, shown = at_grid(target("scl s3")[None]), target("scl s3")[None]
    scores, vectors = net().guides(middle(3)[None], masks, shown)
    assert scores.tolist() == [1.0]
    logits = net().guided(middle(1)[None], vectors, prior(1, [3]))
    np.testing.assert_allclose(full(logits), NUMBERS["logits_1shot"], atol=CLOSE)


def test_five_shots() -> None:
    """Supports judged by their vectors on all five, and five predictions weighted by that."""
    numbers = list(range(3, 8))
    shown = torch.stack([target(f"scl s{i}") for i in numbers])
    scores, vectors = net().guides(torch.stack([middle(i) for i in numbers]), at_grid(shown), shown)
    np.testing.assert_allclose(scores.numpy(), NUMBERS["scores"], atol=1e-4)
    apart = net().guided(middle(1)[None], vectors, prior(1, numbers))
    np.testing.assert_allclose(full(weighted_sum(apart, scores)[None]), NUMBERS["logits_5shot"], atol=CLOSE)


def test_learning_rates_of_every_group() -> None:
    """All groups of the release at one rate, ten times the nominal one. It counts steps from 1."""
    small = Config.model_validate({"preset": "scl", "width": 8})
    assert small.steps == int(NUMBERS["lr/total"])
    groups = make_optimizer(small, optimizer_groups(FewShotNet(small, 8, 1), small)).param_groups
    assert (groups[0]["momentum"], groups[0]["weight_decay"], groups[0]["nesterov"]) == (0.9, 1e-4, False)
    for step, rates in zip(NUMBERS["lr/steps"].tolist(), NUMBERS["lr/groups"], strict=True):
        assert len(set(rates.tolist())) == 1
        for group in groups:
            assert group["lr"] * lr_factor(small, step + 1) == pytest.approx(rates[0], rel=1e-9)


def test_geometry_at_test_time() -> None:
    """Aspect kept, sides down to multiples of 8, on black; truth and logits on a square of the longer side."""
    found = golden("scl", "test")
    image = corner(picture("scl photo", 75, 100), 113)
    assert np.abs(image[1::6, 2::6].astype(float) - found["image"]).max() < 1, "8 bits here, floats there"
    assert (corner(bars((1,), 75, 100), 113, mask=True)[1::6, 2::6] == found["label"]).all()
    logits = torch.from_numpy(uniform("scl logits", 1, 2, 15, 15)).float()
    back = enlarged(logits, 75, 100, "corner", 113)
    assert back.shape == (1, 2, 75, 100)
    np.testing.assert_allclose(back[0, :, ::5, ::5].numpy(), found["logits"], atol=1e-6)


RECIPE = {  # constants of the release's code and of its config for PASCAL, by our names
    "preset": "scl",
    "seed": 321,
    "steps": 200 * 5_953 // 4,
    "epochs": None,
    "processes": 1,
    "batch": 4,
    "optimizer": "sgd",
    "lr": 0.0025,
    "lr_parity": 10.0,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "schedule": "poly",
    "poly_power": 0.9,
    "warmup_steps": 0,
    "lr_floor": 0.0,
    "grad_clip": None,
    "precision": "fp32",
    "shots": 1,
    "test_shots": 1,
    "test_episodes": 5_000,
    "test_seeds": (321,),
    "encoder": "resnet50s",
    "encoder_weights": "hub",
    "encoder_norms": "batch",
    "released_dilation": True,
    "output_stride": 8,
    "size": 473,
    "test_fit": "corner",
    "canvas_logits": True,
    "scale_levels": False,
    "mask_support": False,
    "mask_stage": True,
    "area_masks": False,
    "binary_masks": True,
    "base": "pfenet",
    "width": 256,
    "scales": (60, 30, 15, 8),
    "dropout": 0.5,
    "prior": "plain",
    "prior_gain": 1.0,
    "scl": True,
    "inter_scale_source": "initial",
    "through_grid": True,
    "support_weight": 1.0,
    "inner_weight": 1.0,
    "cross_iou": "both",
    "object_weight": 1.0,
    "support_object_weight": 1.0,
    "target_stride": 1,
    "cached": False,
    "split": "hard",
    "support_detached": False,
    "support_from": 0.0,
    "base_learner": None,
    "canvas_masks": False,
}
EPISODES = {
    "folds": 4,
    "fold": 0,
    "split": "blocks",
    "held_out": None,
    "min_pixels": 2 * 32 * 32,
    "min_share": 0.0,
    "drop_held_out": False,
    "held_out_pixels": "background",
    "pick": "raw",
}
VIEWS = {"size": 473, "fit": "native", "scale": (0.9, 1.1), "rotate": 10.0, "flip": 0.5, "blur": 0.5}
NOT_USED = {
    "betas",
    "warmup_factor",
    "priors",
    "cache_mb",
    "start",
    "start_seed",
    "gram_shots",
}  # adam's, CLIP's, and what changes no result here
NO_RESULT = {"eval_every", "runtime"}


def test_the_preset_as_a_whole_table() -> None:
    found = Config(preset="scl").model_dump()
    views, episodes = found.pop("augment"), found.pop("episodes")
    assert {key: value for key, value in found.items() if key not in NOT_USED | NO_RESULT} == RECIPE
    assert episodes == EPISODES
    assert {key: value for key, value in views.items() if value} == VIEWS
    coco = Config(preset="scl_coco").model_dump()
    differ = {key: value for key, value in coco.items() if value != Config(preset="scl").model_dump()[key]}
    assert differ.pop("augment")["scale"] == (0.8, 1.25)
    assert differ.pop("episodes") == {**EPISODES, "split": "interleaved"}
    assert differ == {
        "preset": "scl_coco",
        "encoder": "resnet101s",
        "size": 641,
        "scales": (1.0, 0.5, 0.25, 0.125),
        "lr": 0.005,
        "batch": 8,
        "steps": 50 * 82_081 // 8,
        "test_episodes": 20_000,
    }
