"""DCFM's parts against brute force: seeds, votes, prototypes, self-contrast, feature enhancement, losses, measures."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.dcfm.enhance import FeatureEnhancement, rank_weights
from maskmill.trainers.dcfm.losses import deep_loss, map_loss
from maskmill.trainers.dcfm.prototypes import (
    PrototypeGeneration,
    agreement,
    group_mean,
    match_votes,
    pick_seeds,
    seed_scores,
    self_contrast,
    vote,
)
from maskmill.trainers.engine.saliency import SaliencyMetrics, score_maps

torch.set_num_threads(1)


def one_group(count: int) -> Tensor:
    return torch.ones(count, count, dtype=torch.bool)


def mates_of(groups: list[int]) -> Tensor:
    numbers = torch.tensor(groups)
    return numbers[:, None] == numbers[None]


def features(count: int, channels: int = 8, side: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def generation(channels: int = 8, **settings: str) -> PrototypeGeneration:
    torch.manual_seed(1)
    return PrototypeGeneration(channels, **settings).eval()  # type: ignore[arg-type]


# --- seeds


def test_seed_scores_are_the_mean_over_images_of_the_best_match() -> None:
    q, k, groups = features(5, seed=1), features(5, seed=2), [0, 0, 1, 0, 1]
    found = seed_scores(q, k, mates_of(groups))
    for image, position in product(range(5), range(16)):
        own = q[image].flatten(1)[:, position]
        best = [max(float(own @ t) for t in k[j].flatten(1).T) for j in range(5) if groups[j] == groups[image]]
        assert float(found[image, position]) == pytest.approx(sum(best) / len(best) / math.sqrt(8), abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_affinity_in_pieces_equals_the_dense_one(chunk: int) -> None:
    q, k, mates = features(5, seed=1), features(5, seed=2), mates_of([0, 0, 1, 0, 1])
    torch.testing.assert_close(seed_scores(q, k, mates, chunk), seed_scores(q, k, mates, 99), rtol=1e-5, atol=1e-6)


def test_one_unit_seed_an_image_at_the_highest_score() -> None:
    x = F.normalize(features(3), dim=1)
    scores = seed_scores(x, features(3, seed=4), one_group(3))
    seeds = pick_seeds(x, scores)
    torch.testing.assert_close(seeds.norm(dim=1), torch.ones(3))
    for image in range(3):
        torch.testing.assert_close(seeds[image], x[image].flatten(1)[:, int(scores[image].argmax())])


def test_an_image_without_features_makes_all_positions_seeds_and_stays_finite() -> None:
    x = features(3)
    x[1] = 0
    module = generation()
    nn.init.zeros_(module.residual.bias)
    mined = module(x, one_group(3))
    assert (mined.response[1] == 0).all()
    assert all(torch.isfinite(t).all() for t in (mined.features, mined.response, mined.prototype, mined.seeds))
    scores = torch.zeros(1, 16)
    torch.testing.assert_close(pick_seeds(features(1), scores), features(1).sum(dim=(2, 3)))


# --- votes


def test_response_is_stretched_from_exactly_0_to_exactly_1() -> None:
    mined = generation()(features(4), mates_of([0, 0, 1, 1]))
    assert (mined.response.amin(dim=(1, 2, 3)) == 0).all()
    assert (mined.response.amax(dim=(1, 2, 3)) == 1).all()


def test_every_seed_has_one_vote() -> None:
    unit = F.normalize(features(3), dim=1)
    seeds = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(5)), dim=1)
    plain = vote(unit, seeds, one_group(3), clip=True)
    torch.testing.assert_close(plain, vote(unit, seeds[[2, 0, 1]], one_group(3), clip=True))
    for image in range(3):
        cosines = [(unit[image] * seed[:, None, None]).sum(dim=0).clamp_min(0) for seed in seeds]
        mean = sum(cosines[1:], cosines[0]) / 3
        torch.testing.assert_close(plain[image, 0], (mean - mean.min()) / (mean.max() - mean.min()))
    twice = vote(unit[[0, 1, 2, 2]], seeds[[0, 1, 2, 2]], one_group(4), clip=True)
    alone = vote(unit[2:], seeds[2:], one_group(1), clip=True)
    assert (twice[0] - plain[0]).abs().max() > 1e-3, "a repeated image must have two votes"
    assert alone.shape == (1, 1, 4, 4)


def test_modes_agree_without_negative_cosines_and_differ_with_them() -> None:
    module = generation()
    nn.init.zeros_(module.residual.weight)
    positive = features(3).abs()
    mixed = torch.tensor([[[[2.0, -1.0, 0.5]], [[0.1, 0.2, -2.0]]], [[[-3.0, 0.3, 0.4]], [[0.1, 1.0, 0.2]]]])
    small = generation(2)
    nn.init.zeros_(small.residual.weight)
    nn.init.zeros_(small.residual.bias)
    nn.init.zeros_(module.residual.bias)
    for case, same, network in ((positive, True, module), (mixed, False, small)):
        evaluated = network.eval()(case, one_group(len(case))).response
        trained = network.train()(case, one_group(len(case))).response
        assert torch.equal(evaluated, trained) == same
        network.clip = "always"
        assert torch.equal(network(case, one_group(len(case))).response, evaluated)


# --- prototypes


def test_prototype_is_the_mean_of_weighted_features_and_modulates_them() -> None:
    module, x5 = generation(), features(3)
    mined = module(x5, one_group(3))
    x = x5 + module.residual(x5)
    places = list(product(range(3), range(4), range(4)))
    looped = torch.stack([x[i, :, r, c] * mined.response[i, 0, r, c] for i, r, c in places])
    for image in range(3):
        torch.testing.assert_close(mined.prototype[image], looped.mean(dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        mined.features, x * mined.prototype[0][None, :, None, None] + x * mined.response, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("seeds", ["fixed", "identity", "trained", "matches"])
def test_groups_side_by_side_equal_each_group_alone(seeds: str) -> None:
    module, x = generation(seeds=seeds), features(6)
    together = module(x, mates_of([0, 1, 1, 0, 2, 1]))
    for members in ([0, 3], [1, 2, 5], [4]):
        alone = module(x[members], one_group(len(members)))
        torch.testing.assert_close(together.features[members], alone.features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.prototype[members], alone.prototype, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seeds", ["fixed", "identity", "trained", "matches"])
def test_order_does_not_matter_but_company_does(seeds: str) -> None:
    module, x, order = generation(seeds=seeds), features(5), [3, 1, 4, 0, 2]
    mined, permuted = module(x, one_group(5)), module(x[order], one_group(5))
    torch.testing.assert_close(permuted.features, mined.features[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.prototype[0], mined.prototype[0], rtol=1e-4, atol=1e-6)
    other = module(torch.cat([x[:1], features(4, seed=9)]), one_group(5))
    assert (other.features[0] - mined.features[0]).abs().max() > 1e-3
    if seeds == "matches":
        return  # only the others vote, so a clone has votes where a single image has none
    clones = module(x[:1].repeat(4, 1, 1, 1), one_group(4))
    torch.testing.assert_close(clones.features[2:3], module(x[:1], one_group(1)).features, rtol=1e-4, atol=1e-5)


def test_query_and_key_get_gradients_only_where_seeds_are_trained() -> None:
    for seeds in ("fixed", "trained"):
        module = generation(seeds=seeds).train()
        mined = module(features(3), one_group(3))
        (mined.features.square().mean() + mined.response.mean()).backward()
        reached = [
            p.grad is not None and bool(p.grad.abs().sum() > 0) for p in (module.query.weight, module.key.weight)
        ]
        assert reached == [seeds == "trained"] * 2
        assert module.residual.weight.grad is not None


def test_matches_let_every_other_image_vote_by_its_best_match() -> None:
    unit, bonus = F.normalize(features(4), dim=1), torch.rand(4, 16, generator=torch.Generator().manual_seed(3))
    mates = mates_of([0, 0, 1, 0])
    votes = match_votes(unit, bonus, mates)
    flat = unit.flatten(2)
    for image, others in ((0, (1, 3)), (1, (0, 3)), (3, (0, 1))):
        best = [(flat[image].T @ flat[j] + 0.5 * bonus[j]).amax(dim=1) for j in others]
        torch.testing.assert_close(votes[image], torch.stack(best).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert (votes[2] == 0).all()
    torch.testing.assert_close(match_votes(unit, bonus, mates, chunk=1), votes)


def test_matches_raise_what_the_others_show_and_leave_a_single_image_its_saliency() -> None:
    module, x = generation(seeds="matches"), features(3)
    nn.init.zeros_(module.saliency.weight)
    compared = features(3, channels=5, seed=7)
    compared[:, :, 1, 2] = torch.eye(5)[0] * 4  # the one thing that all three show
    response = module(x, one_group(3), compared).response
    assert response.flatten(1).argmax(dim=1).tolist() == [6, 6, 6]
    alone = module(x[:1], one_group(1), compared[:1]).response
    torch.testing.assert_close(alone, torch.sigmoid(module.saliency(x[:1] + module.residual(x[:1]))))
    module(x, one_group(3), compared).response.square().mean().backward()
    assert module.saliency.bias.grad is not None
    assert module.vote_weights.grad is not None


def test_group_mean_and_agreement_stay_inside_a_group() -> None:
    values = torch.tensor([[1.0], [3.0], [10.0]])
    assert group_mean(values, mates_of([0, 0, 1])).flatten().tolist() == [2.0, 2.0, 10.0]
    seeds = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    torch.testing.assert_close(agreement(seeds, mates_of([0, 0, 0, 1])), torch.tensor([0.5, 0.5, 0.0, 1.0]))


# --- self-contrast


def test_self_contrast_at_its_fixed_points() -> None:
    one, mates = torch.tensor([[3.0, 0.0]]), one_group(1)
    side = torch.tensor([[0.0, 2.0]])
    assert float(self_contrast(one, 5 * one, -2 * one, mates)) == pytest.approx(0, abs=1e-4)
    assert float(self_contrast(one, side, side, mates)) == pytest.approx(2 * math.log(2), abs=1e-4)
    p, inside, outside = (features(1, side=1, seed=s)[:, :, 0, 0] for s in (1, 2, 3))
    scaled = self_contrast(7 * p, 0.1 * inside, 30 * outside, mates)
    torch.testing.assert_close(scaled, self_contrast(p, inside, outside, mates), rtol=1e-4, atol=1e-5)


def test_self_contrast_weighs_groups_not_images() -> None:
    p, inside, outside = (features(4, side=1, seed=s)[:, :, 0, 0] for s in (1, 2, 3))
    p, inside, outside = (t[[0, 0, 0, 1]] for t in (p, inside, outside))
    both = self_contrast(p, inside, outside, mates_of([0, 0, 0, 1]))
    alone = [self_contrast(p[i : i + 1], inside[i : i + 1], outside[i : i + 1], one_group(1)) for i in (0, 3)]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


# --- feature enhancement


def test_rank_weights_rise_as_non_negative_logits_fall() -> None:
    weights = rank_weights(torch.tensor([[3.0, -1.0, 0.0, 2.0], [-1.0, -2.0, -3.0, -4.0], [1.0, 1.0, 1.0, 1.0]]))
    assert weights.tolist() == [[1, 1, 27, 8], [1, 1, 1, 1], [1, 8, 27, 64]], "ties are ranked by position"
    largest = rank_weights(torch.zeros(196)).max()
    assert float(largest) == 196**3
    assert largest > torch.finfo(torch.float16).max


@pytest.mark.parametrize("rows", ["raw", "normalised"])
def test_enhancement_equals_a_triple_loop(rows: str) -> None:
    torch.manual_seed(0)
    module = FeatureEnhancement(4, rows).eval()  # type: ignore[arg-type]
    nn.init.constant_(module.entry.bias, 3.0)  # no dead positions, hence no ties
    y = features(2, channels=4, side=3)
    x = F.relu(module.entry(y))
    q, k, v = (layer(x).flatten(2) for layer in (module.query, module.key, module.value))
    expected = torch.zeros_like(v)
    for image, i in product(range(2), range(9)):
        row = torch.stack([q[image, :, i] @ k[image, :, j] / 2 for j in range(9)])
        share = torch.softmax(row, dim=0)
        ranks = [int(sum(row[m] > row[j] for m in range(9))) for j in range(9)]
        links = [share[j] * (ranks[j] + 1) ** 3 if row[j] >= 0 else share[j] for j in range(9)]
        total = sum(links) if rows == "normalised" else 1
        expected[image, :, i] = sum(links[j] / total * v[image, :, j] for j in range(9))
    base = y if rows == "normalised" else x
    torch.testing.assert_close(module(y), expected.reshape(x.shape) + base, rtol=1e-4, atol=1e-5)
    module.silence_links()
    torch.testing.assert_close(module(y), base)


def test_rows_of_negative_logits_are_plain_attention() -> None:
    logits = -features(1).flatten().abs().reshape(8, 16) - 0.1
    torch.testing.assert_close(torch.softmax(logits, -1) * rank_weights(logits), torch.softmax(logits, -1))


# --- losses


def test_iou_loss_is_0_for_perfect_and_near_8_for_inverted_maps_of_four_levels() -> None:
    target = torch.zeros(2, 1, 8, 8)
    target[:, :, 2:5, 2:6] = 1
    valid = torch.ones_like(target)
    perfect = [40 * (2 * target - 1)] * 4
    assert float(deep_loss(perfect, target, valid)) == pytest.approx(0, abs=1e-4)
    assert float(deep_loss([-p for p in perfect], target, valid)) == pytest.approx(8, abs=1e-3)
    assert float(deep_loss([torch.zeros(2, 1, 2, 2)], target, valid)) == pytest.approx(
        float(map_loss(torch.full_like(target, 0.5), target, valid))
    )


def test_iou_loss_is_deaf_to_open_pixels_and_an_empty_mask_teaches_background_alone() -> None:
    target, valid = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    target[..., :2], valid[:, :, 3] = 1, 0
    share = torch.full((1, 1, 4, 4), 0.3)
    other = share.clone()
    other[:, :, 3] = 0.9
    assert torch.equal(map_loss(share, target, valid), map_loss(other, target, valid))
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    deep_loss([logits], torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all(), "the background term still pushes the map down"


# --- measures


def fixture(count: int = 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Blurred, shifted and noisy maps of discs and boxes, 8 bits, that span no full range."""
    rng, maps, masks = np.random.default_rng(3), [], []
    y, x = np.mgrid[:48, :60]
    for number in range(count):
        cy, cx, r = rng.integers(14, 34), rng.integers(16, 44), rng.integers(6, 13)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < r * r if number % 2 else (abs(y - cy) < r) & (abs(x - cx) < r)
        near = 1 / (1 + np.exp((np.hypot(y - cy - 2, x - cx + 1) - r) / 3))
        maps.append((255 * np.clip(0.75 * near + 0.2 * rng.random(near.shape), 0, 1)).astype(np.uint8))
        masks.append(inside.astype(np.uint8))
    return maps, masks


def toolbox(maps: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, float]:
    """The formulas of the field's evaluation toolbox, written out."""
    f, e, s, mae = [], [], [], []
    for raw, mask in zip(maps, masks, strict=True):
        p, g = raw / 255, mask.astype(float)
        mae.append(abs(p - g).mean())
        p = (p - p.min()) / (p.max() - p.min())
        fs, es = [], []
        for threshold in np.linspace(0, 1 - 1e-10, 255):
            binary = (p >= threshold).astype(float)
            precision, recall = (binary * g).sum() / (binary.sum() + 1e-20), (binary * g).sum() / (g.sum() + 1e-20)
            fs.append(1.3 * precision * recall / (0.3 * precision + recall + 1e-20))
            a, b = binary - binary.mean(), g - g.mean()
            es.append((((2 * a * b / (a * a + b * b + 1e-20)) + 1) ** 2 / 4).sum() / (g.size - 1 + 1e-20))
        f.append(fs)
        e.append(es)
        s.append(structure(p, g))
    return {
        "s": float(np.mean(s)),
        "max_e": float(np.mean(e, axis=0).max()),
        "max_f": float(np.mean(f, axis=0).max()),
        "mae": float(np.mean(mae)),
    }


def structure(p: np.ndarray, g: np.ndarray) -> float:
    def objectness(v: np.ndarray) -> float:
        return 2 * v.mean() / (v.mean() ** 2 + 1 + v.std(ddof=1) + 1e-20)

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        x, y, n = a.mean(), b.mean(), a.size
        sx, sy = ((a - x) ** 2).sum() / (n - 1), ((b - y) ** 2).sum() / (n - 1)
        sxy = ((a - x) * (b - y)).sum() / (n - 1)
        top, bottom = 4 * x * y * sxy, (x * x + y * y) * (sx + sy)
        return top / (bottom + 1e-20) if top else float(bottom == 0)

    share = g.mean()
    by_object = share * objectness(p[g == 1]) + (1 - share) * objectness(1 - p[g == 0])
    rows, columns = np.nonzero(g)
    cy, cx = round(rows.mean()) + 1, round(columns.mean()) + 1
    blocks = [(slice(0, cy), slice(0, cx)), (slice(0, cy), slice(cx, None))]
    blocks += [(slice(cy, None), slice(0, cx)), (slice(cy, None), slice(cx, None))]
    by_region = sum(g[b].size / g.size * similarity(p[b], g[b]) for b in blocks)
    return max(0.0, 0.5 * by_object + 0.5 * by_region)


def test_measures_equal_the_toolbox_formulas() -> None:
    maps, masks = fixture()
    found, expected = score_maps(maps, masks), toolbox(maps, masks)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-3), name


def test_the_maximum_is_taken_of_the_mean_curve_and_mae_of_the_raw_map() -> None:
    maps, masks = fixture(6)
    maps = [m // (1 + i % 3) + 20 * i for i, m in enumerate(maps)]
    singles = [score_maps([m], [g]) for m, g in zip(maps, masks, strict=True)]
    found = score_maps(maps, masks)
    assert found["max_f"] < np.mean([one["max_f"] for one in singles])
    assert found["mae"] == pytest.approx(np.mean([abs(m / 255 - g).mean() for m, g in zip(maps, masks, strict=True)]))


def test_missing_maps_wrong_sizes_and_no_images_are_errors() -> None:
    maps, masks = fixture(2)
    with pytest.raises(ValueError, match="a map for each of 2 masks, found 1"):
        score_maps(maps[:1], masks)
    with pytest.raises(ValueError, match="resize the map"):
        score_maps([maps[0][:9]], masks[:1])
    with pytest.raises(ValueError, match="at least one image"):
        SaliencyMetrics().compute()


def test_open_pixels_do_not_count_and_every_class_is_object() -> None:
    maps, masks = fixture(1)
    open_mask, loud = masks[0].copy(), maps[0].copy()
    open_mask[:5], loud[:5] = 255, 255
    quiet = loud.copy()
    quiet[:5] = 0
    assert score_maps([loud], [open_mask]) == score_maps([quiet], [open_mask])
    assert score_maps(maps, [masks[0] * 7]) == score_maps(maps, masks)
