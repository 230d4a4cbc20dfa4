"""SCL and the base decoders: the split of an object, weight sharing, cross-guidance, losses, shapes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.few_shot.base import MatchingDecoder, PyramidDecoder, distillation_loss, masked_mean, resize
from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.model import FewShotNet
from maskmill.trainers.few_shot.scl import (
    cross_entropy,
    decoded_loss,
    guide,
    mask_iou,
    own_merge_alone,
    scl_loss,
    second_look,
    soft_split,
    split_object,
    support_scores,
    weighted_sum,
)
from maskmill.trainers.few_shot.train import episode_loss

torch.set_num_threads(1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def disc(batch: int, side: int = 8) -> Tensor:
    mask = torch.zeros(batch, 1, side, side)
    mask[:, :, 2:6, 2:6] = 1
    return mask


def decoder(slots: int = 2, priors: int = 1, **settings: object) -> PyramidDecoder:
    torch.manual_seed(0)
    return PyramidDecoder(8, slots, priors, (1.0, 0.5, 0.25, 0.13), support_path=True).eval()


def net(**settings: object) -> FewShotNet:
    torch.manual_seed(0)
    given = {"width": 8, "scl": True, "dropout": 0.0, "size": 64, **settings}
    config = Config.model_validate(given)
    return FewShotNet(config, 12, config.prior_channels).eval()


def support_set(k: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Query, supports, masks, priors of each support, targets at the canvas."""
    masks = disc(k)
    targets = F.interpolate(masks, (16, 16))[:, 0].long()
    return noise(1, 12, 8, 8, seed=seed), noise(k, 12, 8, 8, seed=seed + 1), masks, noise(k, 1, 8, 8, seed=9), targets


def scores_of(model: FewShotNet, supports: Tensor, masks: Tensor, targets: Tensor) -> Tensor:
    return model.guides(supports, masks, targets)[0]


def guided(model: FewShotNet, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor) -> Tensor:
    """Logits by each support alone."""
    apart = [model.guides(s[None], m[None], masks[:1, 0].long())[1] for s, m in zip(supports, masks, strict=True)]
    primary, auxiliary = (torch.cat([vectors[i] for vectors in apart]) for i in (0, 1))
    return model.guided(query, (primary, auxiliary), priors)


# --- SGM


@given(st.integers(0, 10_000))
def test_covered_and_missed_part_the_object(seed: int) -> None:
    mask, predicted = (noise(2, 1, 6, 7, seed=seed) > 0).float(), (noise(2, 1, 6, 7, seed=seed + 1) > 0).float()
    covered, missed = split_object(mask, predicted)
    assert (covered * missed).sum() == 0
    torch.testing.assert_close(covered + missed, mask)
    flipped = torch.where(mask > 0, predicted, 1 - predicted)
    assert all(torch.equal(a, b) for a, b in zip(split_object(mask, flipped), (covered, missed), strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_vectors_add_up(dtype: torch.dtype, tolerance: float) -> None:
    features, mask = noise(3, 5, 6, 6).to(dtype), (noise(3, 1, 6, 6, seed=1) > 0).to(dtype)
    covered, missed = split_object(mask, (noise(3, 1, 6, 6, seed=2) > 0).to(dtype))
    c, u, e = (x.sum(dim=(2, 3), keepdim=True) for x in (covered, missed, 0 * mask))
    e = e + 5e-4
    left = masked_mean(features, mask) * (c + u + e)
    right = masked_mean(features, covered) * (c + e) + masked_mean(features, missed) * (u + e)
    torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)


def test_perfect_and_empty_first_predictions() -> None:
    features, mask = noise(1, 5, 6, 6), disc(1, 6)
    own = masked_mean(features, mask)
    for predicted, whole in ((mask, 0), (torch.zeros_like(mask), 1)):
        vectors = [masked_mean(features, part) for part in split_object(mask, predicted)]
        torch.testing.assert_close(vectors[whole], own)
        assert vectors[1 - whole].eq(0).all()


def test_masks_stay_binary_at_the_releases_sizes() -> None:
    for canvas, grid, binary in ((473, 60, True), (641, 81, True), (321, 41, True), (500, 63, False)):
        mask = (noise(1, 1, canvas, canvas) > 0).float()
        small = resize(mask, (grid, grid))
        near = (small < 1e-3) | (small > 1 - 1e-3)  # positions are exact up to the rounding of float32
        assert bool(near.all()) == binary


def test_shapes_of_the_merges() -> None:
    scl = PyramidDecoder(256, 2, 1, (60, 30, 15, 8), support_path=True)
    assert {m[0].in_channels for m in scl.support_merge} == {768}
    assert {m[0].in_channels for m in scl.query_merge} == {769}
    assert [_merged(MatchingDecoder(256, p)) for p in (4, 12)] == [516, 524]
    assert [MatchingDecoder(256, p).mix[0][0].in_channels for p in (4, 12)] == [68, 76]
    plain = PyramidDecoder(256, 1, 1, (60, 30, 15, 8))
    added = sum(p.numel() for p in scl.parameters()) - sum(p.numel() for p in plain.parameters())
    assert added == 4 * 768 * 256 + 4 * 256 * 256, "SCL adds 1.05 M parameters to PFENet"


def _merged(matching: MatchingDecoder) -> int:
    first = matching.query_merge[0]
    assert isinstance(first, nn.Conv2d)
    return first.in_channels


def test_paths_share_all_that_follows_the_merge() -> None:
    d = decoder()
    first = guide(d, noise(2, 8, 8, 8), disc(2)).first
    decoded_loss(first, disc(2)[:, 0].long()).backward()  # type: ignore[no-untyped-call]
    shared = [d.blocks, d.inner, d.inter_scale, d.gather, d.last, d.head, d.support_merge]
    assert all(any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters()) for part in shared)
    assert all(p.grad is None for p in d.query_merge.parameters())


def test_no_gradient_flows_from_the_query_into_the_split() -> None:
    d, features = decoder(), noise(1, 8, 8, 8)
    guided = guide(d, features, disc(1))
    guided.first.logits.retain_grad()
    decoded_loss(d(noise(1, 8, 8, 8, seed=4), guided.vectors, noise(1, 1, 8, 8)), disc(1)[:, 0].long()).backward()
    assert guided.first.logits.grad is None or guided.first.logits.grad.eq(0).all()


def test_a_soft_split_weighs_every_cell_of_the_object() -> None:
    """p F / p and (1 - p) F / (1 - p) over the object; sure predictions split it as the hard one does."""
    mask, logits = disc(1), noise(1, 2, 8, 8)
    found, missed = soft_split(mask, logits)
    torch.testing.assert_close(found + missed, mask)
    torch.testing.assert_close(found, mask * logits.softmax(dim=1)[:, 1:])
    sure = soft_split(mask, 1e4 * logits)
    torch.testing.assert_close(torch.cat(sure), torch.cat(split_object(mask, logits.argmax(dim=1, keepdim=True))))
    d, features = decoder(), noise(1, 8, 8, 8)
    soft = guide(d, features, mask, "soft")
    share = mask * soft.first.logits.softmax(dim=1)[:, 1:]
    torch.testing.assert_close(soft.primary, masked_mean(features, share))
    torch.testing.assert_close(soft.auxiliary, masked_mean(features, mask - share))
    with_loss = decoded_loss(d(noise(1, 8, 8, 8, seed=4), soft.vectors, noise(1, 1, 8, 8)), mask[:, 0].long())
    soft.first.logits.retain_grad()
    with_loss.backward()  # type: ignore[no-untyped-call]
    assert soft.first.logits.grad is None or soft.first.logits.grad.eq(0).all()


def test_every_way_asks_for_the_same_split() -> None:
    query, supports, masks, priors, targets = support_set(2)
    hard, soft = net(split="hard"), net(split="soft")
    soft.load_state_dict(hard.state_dict())
    for shots in (1, 2):
        hard_v, soft_v = (n.guides(supports[:shots], masks[:shots], targets[:shots])[1] for n in (hard, soft))
        expected = guide(soft._pyramid(), soft.down_support(supports[:shots]), masks[:shots], "soft").vectors
        torch.testing.assert_close(soft_v, expected)
        assert not torch.allclose(hard_v[0], soft_v[0])
    one = (query, supports[None, :1], masks[None, :1], priors[:1])
    assert not torch.allclose(hard.self_guided(*one).query.logits, soft.self_guided(*one).query.logits)


def test_detached_supports_teach_their_own_merge_alone() -> None:
    query, supports, masks, priors, _ = support_set(1)
    model = net(support_detached=True)
    free = net()
    free.load_state_dict(model.state_dict())
    out = model.self_guided(query, supports[None], masks[None], priors)
    torch.testing.assert_close(
        out.second.logits, free.self_guided(query, supports[None], masks[None], priors).second.logits
    )
    (decoded_loss(out.first, masks[:, 0].long()) + decoded_loss(out.second, masks[:, 0].long())).backward()  # type: ignore[no-untyped-call]
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.partition(".")[0] for name in touched if "decoder" not in name} == {"down_support"}
    assert {name.split(".")[1] for name in touched if "decoder" in name} == {"support_merge"}
    d, features = decoder(), noise(1, 8, 8, 8)
    torch.testing.assert_close(
        guide(own_merge_alone(d), features, disc(1)).first.logits, guide(d, features, disc(1)).first.logits
    )


def test_support_losses_may_begin_late() -> None:
    query, supports, masks, priors, targets = support_set(1)
    model = net(support_from=2 / 3, steps=6)
    batch = {"query": query, "supports": supports[None], "masks": masks[None], "priors": priors}
    batch |= {"query_target": targets, "support_target": targets[None]}
    losses = [float(episode_loss(model, batch, model.config, step)[0].detach()) for step in range(6)]
    assert losses[0] == losses[3] < losses[4] == losses[5]
    always = float(episode_loss(model, batch, model.config.model_copy(update={"support_from": 0.0}), 0)[0].detach())
    assert always == losses[4]


def test_own_defaults_are_those_that_did_not_collapse_and_presets_the_releases() -> None:
    own, released = Config(scl=True), Config(preset="scl")
    assert (own.split, own.support_from, own.support_weight) == ("soft", 2 / 3, 0.5)
    assert (released.split, released.support_from, released.support_weight) == ("hard", 0.0, 1.0)


def test_the_inter_scale_source_matters_from_the_second_scale_on() -> None:
    d, features = decoder(), noise(1, 8, 8, 8)
    guided = guide(d, features, disc(1))
    initial, current = (second_look(d, features, guided, source) for source in ("initial", "current"))
    torch.testing.assert_close(initial.inner[0], current.inner[0])
    assert all(not torch.allclose(a, b) for a, b in zip(initial.inner[1:], current.inner[1:], strict=True))


def test_order_of_the_vectors_and_their_number_count() -> None:
    d, features = decoder(), noise(1, 8, 8, 8)
    a, b = noise(1, 8, 1, 1, seed=1), noise(1, 8, 1, 1, seed=2)
    assert not torch.allclose(d(features, (a, b), path="support").logits, d(features, (b, a), path="support").logits)
    with pytest.raises(ValueError, match="expected 2 vectors, found 1"):
        d(features, (a,))


# --- losses


def test_losses_by_hand() -> None:
    d, features = decoder(), noise(2, 8, 8, 8)
    guided = guide(d, features, disc(2))
    second = second_look(d, features, guided, "current")
    query = d(noise(2, 8, 8, 8, seed=3), guided.vectors, noise(2, 1, 8, 8))
    target = F.interpolate(disc(2), (16, 16))[:, 0].long()
    target[:, 0] = 255
    parts = [query, guided.first, second]

    def ce(logits: Tensor) -> Tensor:
        full = F.interpolate(logits, (16, 16), mode="bilinear", align_corners=True)
        return F.cross_entropy(full, target, ignore_index=255)

    main = sum(ce(p.logits) for p in parts)
    inner = [ce(logits) for p in parts for logits in p.inner]
    assert len(inner) == 12
    torch.testing.assert_close(scl_loss(*parts, target, target), main + sum(inner) / 4)
    pfenet = ce(query.logits) + sum(ce(logits) for logits in query.inner) / 4
    torch.testing.assert_close(scl_loss(*parts, target, target, support_weight=0.0), pfenet)
    weighed = decoded_loss(parts[0], target, 1.0, 3.0)
    weighed = weighed + decoded_loss(parts[1], target, 1.0, 2.0) + decoded_loss(parts[2], target, 1.0, 2.0)
    found = scl_loss(*parts, target, target, object_weight=3.0, support_object_weight=2.0)
    torch.testing.assert_close(found, weighed)
    assert cross_entropy(query.logits, torch.full_like(target, 255)) == 0
    full = F.interpolate(query.logits, (16, 16), mode="bilinear", align_corners=True)
    weighted = F.cross_entropy(full, target, torch.tensor([1.0, 3.0]), ignore_index=255)
    torch.testing.assert_close(cross_entropy(query.logits, target, 3.0), weighted)


def test_distillation_is_zero_for_a_perfect_chain_and_teaches_finer_maps_only() -> None:
    target = F.interpolate(disc(1), (16, 16))[:, 0].long()
    perfect = torch.where(disc(1)[:, 0] > 0, 10.0, -10.0)
    assert distillation_loss([perfect], target) < 1e-4
    coarse, fine = noise(1, 4, 4).requires_grad_(), noise(1, 8, 8, seed=1).requires_grad_()
    (distillation_loss([coarse, fine], target)).backward()  # type: ignore[no-untyped-call]
    assert coarse.grad is not None
    alone = noise(1, 4, 4).requires_grad_()
    (distillation_loss([alone], target) / 2).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(coarse.grad, alone.grad, msg="a teacher learns nothing from its student")
    assert fine.grad is not None
    assert fine.grad.abs().sum() > 0


# --- CGM


def test_iou_definitions() -> None:
    target = torch.tensor([[[1, 1, 0, 0, 255]], [[0, 0, 0, 0, 0]]])
    predicted = torch.tensor([[[1, 0, 0, 0, 1]], [[0, 0, 0, 0, 0]]])
    assert mask_iou(predicted, target, "foreground").tolist() == [0.5, 0.0]
    assert mask_iou(predicted, target, "both").tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 0.0])


@pytest.mark.parametrize("source", ["initial", "current"])
def test_identical_supports_are_one_support(source: str) -> None:
    model = net(inter_scale_source=source)
    query, supports, masks, priors, targets = support_set(1)
    many = [x.repeat(3, *[1] * (x.ndim - 1)) for x in (supports, masks, priors, targets)]
    scores = scores_of(model, many[0], many[1], many[3])
    torch.testing.assert_close(scores, scores[:1].expand(3))
    one = guided(model, query, supports, masks, priors)
    torch.testing.assert_close(
        weighted_sum(guided(model, query, *many[:3]), scores)[None], scores[0] * one, atol=1e-5, rtol=1e-4
    )


def test_the_order_of_supports_does_not_matter_and_one_is_self_guidance() -> None:
    model = net()
    query, supports, masks, priors, targets = support_set(4)
    scores = scores_of(model, supports, masks, targets)
    whole = weighted_sum(guided(model, query, supports, masks, priors), scores)[None]
    order = [2, 0, 3, 1]
    permuted = scores_of(model, supports[order], masks[order], targets[order])
    torch.testing.assert_close(permuted, scores[order], atol=1e-5, rtol=1e-4)
    again = weighted_sum(guided(model, query, supports[order], masks[order], priors[order]), permuted)[None]
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-4)
    assert scores_of(model, supports[:1], masks[:1], targets[:1]).tolist() == [1.0], "a lone support weighs 1"
    alone = weighted_sum(guided(model, query, supports[:1], masks[:1], priors[:1]), torch.tensor([0.37]))[None]
    one = guided(model, query, supports[:1], masks[:1], priors[:1])
    assert torch.equal(alone.argmax(dim=1), one.argmax(dim=1))
    trained = model.self_guided(query, supports[None, :1], masks[None, :1], priors[:1]).query.logits
    torch.testing.assert_close(one, trained)


def test_a_support_without_an_object_counts_nothing() -> None:
    model = net()
    query, supports, masks, priors, targets = support_set(3)
    masks[1], targets[1] = 0, 0
    scores = scores_of(model, supports, masks, targets)
    assert scores[1] == 0
    assert scores[0] > 0
    out = weighted_sum(guided(model, query, supports, masks, priors), scores)[None]
    assert out.isfinite().all()
    others = guided(model, query, supports[[0, 2]], masks[[0, 2]], priors[[0, 2]])
    wanted = (others * scores[[0, 2], None, None, None]).sum(dim=0, keepdim=True) / 3
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-4)
    guides = support_scores(model._pyramid(), model.down_support(supports), masks, targets, "both", "current")[1]
    assert guides.primary[1].eq(0).all()
    assert guides.auxiliary[1].eq(0).all()


# --- base networks


@pytest.mark.parametrize("base", ["pfenet", "hdmnet"])
def test_base_networks_take_any_number_of_supports(base: str) -> None:
    model = net(base=base, scl=False, width=16)
    query, supports, masks, priors, _ = support_set(3)
    one = model(query, supports[None, :1], masks[None, :1], priors[:1]).logits
    many = model(query, supports[None], masks[None], priors[:1]).logits
    assert one.shape == many.shape == (1, 2, 8, 8)
    assert not torch.allclose(one, many)
    torch.testing.assert_close(
        model(query, supports[None, [2, 0, 1]], masks[None], priors[:1]).logits, many, atol=1e-5, rtol=1e-4
    )
    changed = model(query, supports[None, :1], masks[None, :1], priors[:1] + 1).logits
    assert not torch.allclose(one, changed), "priors reach the logits"
    with pytest.raises(ValueError, match="trained with scl"):
        scores_of(model, supports, masks, masks[:, 0].long())


def test_matching_hears_nothing_from_the_supports_background() -> None:
    model = MatchingDecoder(8, 0, width=16).eval()
    query, support, mask = noise(1, 16, 6, 6), noise(1, 16, 6, 6, seed=1), disc(1, 6)
    other = torch.where(mask > 0, support, noise(1, 16, 6, 6, seed=2))
    for a, b in zip(model.matching[0](query, support, mask), model.matching[0](query, other, mask), strict=True):
        torch.testing.assert_close(a, b)
    assert model.matching[0](query, support, 0 * mask)[0].eq(0).all()


def test_scales_are_bins_or_shares() -> None:
    shares, bins = (PyramidDecoder(8, 1, 0, scales).eval() for scales in ((1.0, 0.5), (12, 6)))
    bins.load_state_dict(shares.state_dict())
    features, vector = noise(1, 8, 12, 12), noise(1, 8, 1, 1)
    torch.testing.assert_close(shares(features, (vector,)).logits, bins(features, (vector,)).logits)
    assert math.prod(shares(features, (vector,)).inner[1].shape[2:]) == 36
