"""Priors of few-shot segmentation: matching, text maps, refinement, and that no label of a query is ever used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from maskmill.trainers.few_shot.metrics import average_precision
from maskmill.trainers.few_shot.priors import (
    ClipPriors,
    PriorConfig,
    contrast_match,
    diffuse,
    high_order,
    masked_match,
    plain_prior,
    product_with_text,
    refine,
    resize_nearest,
    transition,
)
from maskmill.vision.clip import min_max
from tests.trainers import shapes

TINY = str(Path(__file__).parents[1] / "data" / "tiny_clip")
NAMES = {1: "red box", 2: "green disc", 3: "blue bar"}

torch.set_num_threads(1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def priors(**settings: Any) -> ClipPriors:
    plain = {} if "preset" in settings else {"product_blocks": 0, "product_text": False}
    small = {"model": TINY, "pretrained": None, "match_side": 64, "text_side": 64, **plain}
    return ClipPriors(PriorConfig(**{**small, **settings}), NAMES, base=(1, 2), surroundings=("wall", "floor"))


# --- VVP


def test_an_image_matches_itself_perfectly() -> None:
    features = noise(24, 30)
    torch.testing.assert_close(masked_match(features, features, torch.ones(30)), torch.ones(30), atol=1e-3, rtol=0)
    image = shapes.draw_scene(0, 64, 64)[0]
    faithful = priors(preset="faithful")
    view = faithful.encode(image, np.ones((64, 64), np.uint8))
    vvp = faithful.vvp(view, [(view, np.ones((64, 64), np.uint8))])
    torch.testing.assert_close(vvp, torch.ones(2, 4, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shots", ["mean", "concat"])
def test_the_product_is_the_contrast_times_the_match_of_what_was_cut_out(shots: str) -> None:
    """Its own channel, last; the example's background is black for the match, and for that alone."""
    plain, more = priors(shots=shots), priors(shots=shots, product_blocks=2)
    image, mask = shapes.draw_scene(0, 64, 64)
    object_ = (mask == mask[(mask > 0) & (mask < 255)][0]).astype(np.uint8)
    query = more.encode(shapes.draw_scene(1, 64, 64)[0])
    view = more.encode(image)
    cut = more.cut_out(view, image, object_)
    alone = priors(mask_image=True, product_blocks=2).encode(image, object_, text=False)
    torch.testing.assert_close(cut.deep, alone.deep)
    assert cut.blocks is view.blocks
    assert cut.deep is not None
    assert query.deep is not None
    assert view.deep is not None
    assert not torch.allclose(cut.deep, view.deep)
    found, contrast = more.vvp(query, [(cut, object_)]), plain.vvp(query, [(view, object_)])
    torch.testing.assert_close(found[:-1], contrast)
    cells = torch.from_numpy(resize_nearest(object_, cut.deep.shape[2:])).float().flatten()
    pairs = zip(query.deep.flatten(2), cut.deep.flatten(2), strict=True)
    match = torch.stack([masked_match(q, s, cells) for q, s in pairs]).mean(dim=0).view(found.shape[1:])
    torch.testing.assert_close(found[-1], contrast.mean(dim=0) * match)
    assert more.config.channels(3) == plain.config.channels(3) + (3 if shots == "concat" else 1)
    assert len(more.vvp(query, [(cut, object_)] * 3)) == more.config.channels(3)


def test_the_product_counts_where_the_text_speaks_as_well() -> None:
    """Each map from 0 to 1, then the product times the root of the text's."""
    products, text = torch.tensor([[[2.0, 4.0, 6.0]], [[1.0, 0.0, 1.0]]]), torch.tensor([[0.0, 1.0, 4.0]])
    expected = torch.tensor([[[0.0, 0.5, 1.0]], [[1.0, 0.0, 1.0]]]) * (torch.tensor([[0.0, 0.25, 1.0]]) + 1e-3).sqrt()
    torch.testing.assert_close(product_with_text(products, text), expected)
    with pytest.raises(ValueError, match="set product_blocks"):
        priors(product_text=True)


def test_the_product_takes_the_last_blocks() -> None:
    """Of four, the last two, deepest first."""
    image = shapes.draw_scene(0, 64, 64)[0]
    deep = priors(product_blocks=2).encode(image, text=False).deep
    assert deep is not None
    assert torch.equal(deep, priors(match_blocks=(-1, -2)).encode(image, text=False).blocks)
    assert not torch.allclose(deep, priors(match_blocks=(0, 1)).encode(image, text=False).blocks)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_the_match_is_bounded_and_blind_to_order_and_scale(seed: int, factor: float) -> None:
    query, support = noise(8, 12, seed=seed), noise(8, 20, seed=seed + 1)
    mask = (noise(20, seed=seed + 2) > 0).float()
    mask[0] = 0
    found = masked_match(query, support, mask)
    assert found.min() >= 0, "a masked cell contributes 0"
    assert found.max() <= 1 + 1e-3
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(masked_match(query, support[:, order], mask[order]), found)
    torch.testing.assert_close(masked_match(factor * query, factor * support, mask), found, atol=1e-4, rtol=1e-4)


def test_an_empty_mask_gives_no_prior() -> None:
    query, support, empty = noise(8, 12), noise(8, 20, seed=1), torch.zeros(20)
    assert masked_match(query, support, empty).eq(0).all()
    assert contrast_match(query, support, empty, centre=True, neighbours=3, temperature=0.1).eq(0).all()
    assert plain_prior(query.view(8, 3, 4), [(support.view(8, 4, 5), empty.view(4, 5))]).eq(0).all()


def test_contrast_tells_the_object_from_what_lies_behind_it() -> None:
    """Both sides share a strong common direction, as deep features do: there the plain match barely differs."""
    front, behind, common = noise(16, 1, seed=3), noise(16, 1, seed=4), 8 * noise(16, 1, seed=5)
    truth = torch.tensor([1.0] * 4 + [0.0] * 8)
    support = common + truth * front + (1 - truth) * behind + 0.3 * noise(16, 12, seed=6)
    query = common + truth.flip(0) * front + (1 - truth.flip(0)) * behind + 0.3 * noise(16, 12, seed=7)
    plain = masked_match(query, support, truth)
    contrast = contrast_match(query, support, truth, centre=True, neighbours=2, temperature=0.1)
    inside = truth.flip(0) > 0
    assert contrast[inside].min() > 0.5 > contrast[~inside].max()
    assert contrast[inside].mean() - contrast[~inside].mean() > 3 * (plain[inside].mean() - plain[~inside].mean())


def test_plain_prior_averages_stretched_maps() -> None:
    query = noise(8, 3, 4)
    supports = [(noise(8, 4, 4, seed=s), (noise(4, 4, seed=s) > 0).float()) for s in (1, 2)]
    apart = [plain_prior(query, [support]) for support in supports]
    torch.testing.assert_close(plain_prior(query, supports), (apart[0] + apart[1]) / 2)
    assert all(map_.min() >= 0 and map_.max() > 0.999 for map_ in apart)


def test_k_shots_are_concatenated_block_by_block_or_averaged() -> None:
    image, other = shapes.draw_scene(0, 64, 64), shapes.draw_scene(4, 64, 64)
    concat, mean = priors(shots="concat"), priors(shots="mean")
    pairs = [(concat.encode(i), (m > 0).astype(np.uint8)) for i, m in (image, other)]
    query = concat.encode(shapes.draw_scene(1, 64, 64)[0])
    stacked = concat.vvp(query, pairs)
    alone = [concat.vvp(query, [pair]) for pair in pairs]
    torch.testing.assert_close(stacked, torch.stack([alone[0][0], alone[1][0], alone[0][1], alone[1][1]]))
    torch.testing.assert_close(mean.vvp(query, pairs), (alone[0] + alone[1]) / 2)
    assert (concat.config.channels(5), mean.config.channels(5)) == (10, 2)


def test_grids_of_the_release_and_backgrounds_as_exact_zeros() -> None:
    faithful = priors(preset="faithful", match_side=473, text_side=None)
    image = np.random.default_rng(0).integers(0, 255, (375, 500, 3)).astype(np.uint8)
    mask = np.zeros((375, 500), np.uint8)
    view = faithful.encode(image, mask)
    assert view.blocks.shape == (2, 64, 29, 29), "473 pixels, 841 tokens, blocks 12 and 11"
    assert view.dense is not None
    assert view.dense.grid == (24, 32), "375 x 500 is read at 384 x 512"
    grey = np.full((375, 500, 3), 90, np.uint8)
    torch.testing.assert_close(faithful.encode(grey, mask, text=False).blocks, view.blocks)


def test_nearest_is_torchs() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (37, 53)).astype(np.uint8)
    for size in ((29, 29), (60, 60)):
        wanted = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), size)[0, 0]
        np.testing.assert_array_equal(resize_nearest(mask, size), wanted.numpy())


# --- VTP


def test_text_rows_are_unit_and_grow_with_new_classes() -> None:
    maker = priors()
    assert len(maker.bank.texts) == 2 * 3 + 2
    torch.testing.assert_close(maker.bank.matrix.norm(dim=1), torch.ones(8))
    assert (maker.learn("red box"), maker.learn("yellow star"), maker.learn("yellow star")) == (1, 4, 4)
    assert len(maker.bank.texts) == 2 * 4 + 2


def test_prompts_are_target_only_unless_asked() -> None:
    def texts(maker: ClipPriors, *args: Any) -> set[str]:
        rows = maker.rivals(*args).nonzero()[:, 0].tolist()
        return {maker.bank.texts[row] for row in rows}

    alone = priors(background_words=False)
    assert PriorConfig().prompts == "target"
    assert not PriorConfig().leaks
    assert texts(alone, 3) == {"a photo of blue bar.", "a photo without blue bar."}, "p = 1"
    assert texts(alone, 3, [1, 2]) == texts(alone, 3), "labels change nothing"
    assert len(texts(priors(prompts="target+base"), 3)) == 6 + 2
    oracle = priors(prompts="oracle", background_words=False)
    assert PriorConfig(prompts="oracle").leaks
    assert len(texts(oracle, 3, [1])) == 4
    with pytest.raises(ValueError, match="needs the query's labels"):
        oracle.rivals(3)


def test_default_map_ignores_the_querys_labels_and_rivals_change_it() -> None:
    image = shapes.draw_scene(2, 64, 64)[0]
    maker, oracle = priors(), priors(prompts="oracle")
    view = maker.encode(image)
    plain = maker.vtp(view, 1)
    for labels in (None, [], [2, 3], [77]):
        assert torch.equal(maker.vtp(view, 1, labels), plain)
    with_one, with_other = oracle.cam(view, 1, [2]), oracle.cam(view, 1, [3])
    assert not torch.equal(with_one, with_other), "swapping a rival changes the map"


def test_grad_cam_equals_explicit_gradients_of_the_probability() -> None:
    """On the first LayerNorm of the last block, from the score p itself, patch tokens pooled, class token left out."""
    maker = priors(cam_layer="norm", temperature=0.5, background_words=False)
    view = maker.encode(shapes.draw_scene(3, 64, 64)[0])
    assert view.dense is not None
    tower, x = maker.backbone.tower, view.dense.last_input
    z = maker.backbone.last_norm(x).detach().requires_grad_(True)
    pooled = torch.nn.functional.normalize(tower.embed(tower.from_norm(tower.blocks[-1], z, x)), dim=-1)
    rows = maker.rivals(2)
    p = (2 * pooled @ maker.bank.matrix[rows].T).softmax(dim=-1)[0, 0]
    (gradient,) = torch.autograd.grad(p, z)
    cells, slopes = z[0, view.dense.prefix :].detach(), gradient[0, view.dense.prefix :].mean(dim=0)
    wanted = min_max((cells @ slopes).relu().view(1, *view.dense.grid))[0]
    torch.testing.assert_close(maker.cam(view, 2), wanted, atol=1e-4, rtol=0)


def test_maps_need_no_ambient_gradient_and_leave_none() -> None:
    maker = priors()
    before = maker.backbone.fingerprint
    view = maker.encode(shapes.draw_scene(3, 64, 64)[0])
    with torch.no_grad():
        assert maker.vtp(view, 1).isfinite().all()
    assert not view.blocks.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in maker.backbone.model.parameters())
    del maker.backbone.__dict__["fingerprint"]
    assert maker.backbone.fingerprint == before


def test_a_query_for_matching_only_has_no_class_map() -> None:
    maker = priors()
    view = maker.encode(shapes.draw_scene(3, 64, 64)[0], text=False)
    with pytest.raises(ValueError, match="text=True"):
        maker.vtp(view, 1)


# --- PIR


def attention(n: int, seed: int = 0) -> Tensor:
    return (3 * noise(n, n, seed=seed)).softmax(dim=1)


def test_the_high_order_matrix() -> None:
    a = attention(30)
    d = transition(a)
    torch.testing.assert_close(d.sum(dim=1), torch.ones(30))
    h, r = d @ d.T, high_order(a)
    torch.testing.assert_close(h, h.T)
    assert torch.linalg.eigvalsh(h.double()).min() > -1e-6
    assert r.min() >= 0
    assert (r >= d @ d - 1e-6).all()


def test_identity_keeps_the_map_and_no_box_gives_nothing() -> None:
    cam = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    kept = diffuse(high_order(torch.eye(30)), cam, torch.ones(5, 6))
    torch.testing.assert_close(kept, min_max(cam[None])[0])
    assert diffuse(high_order(attention(30)), cam, torch.zeros(5, 6)).eq(0).all()
    assert refine(attention(30), torch.zeros(5, 6), box_threshold=0.4, edge_fix=True).eq(0).all()


def test_boxes_bind_the_givers_and_not_the_receivers() -> None:
    cam, boxes = torch.ones(4, 5), torch.zeros(4, 5)
    boxes[0, 0] = 1
    spread = diffuse(high_order(attention(20)), cam, boxes)
    assert (spread.flatten()[1:] > 0).sum() > 10, "cells outside the box may receive"
    column = high_order(attention(20))[:, 0].view(4, 5)
    torch.testing.assert_close(spread, min_max(column[None])[0])


def test_refinement_completes_a_partly_lit_object() -> None:
    """Two kinds of cells that attend among themselves; the map lights a part of the object and some noise."""
    rng = np.random.default_rng(0)
    truth = np.zeros((20, 20), np.uint8)
    truth[4:16, 6:14] = 1
    same = torch.from_numpy((truth.ravel()[:, None] == truth.ravel()[None]).astype(np.float32))
    attend = (2 * same + 0.3 * noise(400, 400)).softmax(dim=1)
    cam = torch.from_numpy(rng.random((20, 20)).astype(np.float32) * 0.35)
    cam[5:8, 7:10] = 1.0
    raw = average_precision(cam.numpy(), truth)
    refined = average_precision(refine(attend, cam, box_threshold=0.4, edge_fix=True).numpy(), truth)
    assert raw < 0.5
    assert refined > 0.95


def test_average_precision_is_sklearns() -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    truth = (rng.random((20, 30)) < 0.2).astype(np.uint8)
    scores = np.round(rng.random((20, 30)) + 0.3 * truth, 1)
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth.ravel(), scores.ravel()))
    assert average_precision(np.zeros((20, 30)), truth) == pytest.approx(truth.mean())
    holed = truth.copy()
    holed[:5] = 255
    wanted = average_precision_score(truth[5:].ravel(), scores[5:].ravel())
    assert average_precision(scores, holed) == pytest.approx(wanted)
    assert np.isnan(average_precision(scores, np.zeros_like(truth)))
