"""The graph model of `a2gnn`: attention against its dense form and an independent library, stacks, known answers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maskmill.labelers.a2gnn.attention import Tiling, dense_attention, dense_bias, make_tiling, tile_attention
from maskmill.labelers.a2gnn.solver import solve
from maskmill.labelers.a2gnn.walk import random_walk
from tests.labelers.a2gnn_cases import CPU, box_problem, disc_problem, options, stack, window_affinity

torch.set_num_threads(1)


def attend(h: Tensor, beta: Tensor, affinity: Tensor, tile: int, layers: int = 1, **options: Any) -> Tensor:
    """`layers` of tile attention on row-major cells (B, h w, D)."""
    height, width = affinity.shape[2:]
    radius = (int(affinity.shape[1] ** 0.5) - 1) // 2
    tiling = make_tiling(height, width, tile, radius)
    rows, bias = tiling.fold(h), tiling.bias(affinity)
    for _ in range(layers):
        rows = tile_attention(rows, beta, bias, tiling, **options)
    return tiling.unfold(rows)


def by_edges(h: Tensor, beta: float, affinity: Tensor) -> Tensor:
    """One layer from a list of edges: h (N, D), affinity ((2r + 1)^2, h, w)."""
    window, height, width = affinity.shape
    side = int(window**0.5)
    out = torch.zeros_like(h)
    for i in range(height * width):
        scores, ends = [], []
        for n in range(window):
            y, x = i // width + n // side - side // 2, i % width + n % side - side // 2
            if 0 <= y < height and 0 <= x < width:
                j = y * width + x
                cosine = (h[i] @ h[j]) / (h[i].norm() * h[j].norm()).clamp(min=1e-12)
                scores.append(beta * cosine + 10 * affinity[n, i // width, i % width])
                ends.append(j)
        p = torch.stack(scores).softmax(0)
        out[i] = (p[:, None] * h[ends]).sum(0)
    return out


@pytest.mark.parametrize(
    ("height", "width", "tile", "radius"), [(6, 6, 3, 2), (5, 7, 4, 2), (9, 4, 8, 4), (3, 2, 8, 1)]
)
def test_tiles_equal_the_dense_layer_and_a_list_of_edges(height: int, width: int, tile: int, radius: int) -> None:
    affinity = window_affinity(height, width, radius)
    h = torch.rand(2, height * width, 5, requires_grad=True)
    other = h.detach().clone().requires_grad_()
    both = affinity.expand(2, -1, -1, -1)
    beta = torch.tensor([0.4, 1.3], requires_grad=True)
    beta_other = beta.detach().clone().requires_grad_()
    tiled = attend(h, beta, both, tile)
    dense = dense_attention(other, beta_other, dense_bias(both))
    torch.testing.assert_close(tiled, dense, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tiled[1], by_edges(h[1].detach(), 1.3, affinity[0]), atol=1e-5, rtol=1e-4)
    pull = torch.randn_like(tiled)
    (tiled * pull).sum().backward()
    (dense * pull).sum().backward()
    torch.testing.assert_close(h.grad, other.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(beta.grad, beta_other.grad, atol=1e-5, rtol=1e-4)


def test_without_the_affinity_term_it_is_the_attention_of_torch_geometric() -> None:
    conv_module = pytest.importorskip("torch_geometric.nn", reason="the oracle is a development dependency")
    height, width, radius = 4, 5, 1
    inside = window_affinity(height, width, radius) > 0
    h = torch.rand(1, height * width, 6)
    conv = conv_module.AGNNConv(requires_grad=False, add_self_loops=False)
    conv.beta = torch.tensor([0.8])
    ends = [
        (j, i)
        for i in range(height * width)
        for j in range(height * width)
        if max(abs(i // width - j // width), abs(i % width - j % width)) <= radius
    ]
    expected = conv(h[0], torch.tensor(ends).T)
    found = attend(h, torch.tensor([0.8]), inside.float() * 1e-9, 3)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


def probabilities(affinity: Tensor, h: Tensor, beta: float) -> Tensor:
    """P (N, N) of a layer: what it does to one-hot rows that are carried beside the features."""
    scores = dense_bias(affinity)[0] + beta * torch.cosine_similarity(h[:, None], h[None], dim=2)
    return scores.softmax(dim=1)


def test_rows_sum_to_one_and_nothing_comes_from_outside_the_window() -> None:
    affinity, h = window_affinity(5, 6, 1), torch.rand(30, 4)
    p = probabilities(affinity, h, 0.5)
    torch.testing.assert_close(p.sum(1), torch.ones(30))
    y, x = torch.arange(30) // 6, torch.arange(30) % 6
    far = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs()) > 1
    assert (p[far] == 0).all()
    assert (p[~far] > 0).all()
    torch.testing.assert_close(attend(h[None], torch.tensor([0.5]), affinity, 4)[0], p @ h, atol=1e-5, rtol=1e-4)
    constant = attend(torch.full((1, 30, 4), 0.3), torch.tensor([0.5]), affinity, 4)
    torch.testing.assert_close(constant, torch.full((1, 30, 4), 0.3))


@pytest.mark.parametrize("layers", [1, 2])
def test_influence_ends_after_layers_times_radius(layers: int) -> None:
    # In double: far away little is left of a change.
    affinity, beta = window_affinity(9, 9, 2).double(), torch.ones(1, dtype=torch.float64)
    h = torch.rand(1, 81, 3, dtype=torch.float64)
    moved = h.clone()
    moved[0, 40] += 1
    change = (attend(h, beta, affinity, 4, layers) - attend(moved, beta, affinity, 4, layers)).abs()
    y, x = torch.arange(81) // 9 - 4, torch.arange(81) % 9 - 4
    reach = torch.maximum(y.abs(), x.abs()) <= 2 * layers
    assert (change[0].sum(1)[~reach] == 0).all()
    assert (change[0].sum(1)[reach] > 0).all()


def test_cutting_all_edges_across_a_line_stops_influence() -> None:
    affinity = window_affinity(6, 8, 2)
    for n in range(25):
        dx = n % 5 - 2
        for x in range(8):
            if (x < 4) != (x + dx < 4):
                affinity[0, n, :, x] = 0
    h = torch.rand(1, 48, 3)
    moved = h.clone()
    moved[0, torch.arange(48) % 8 >= 4] += 1
    left = torch.arange(48) % 8 < 4
    a, b = (attend(v, torch.ones(1), affinity, 4, 3)[0, left] for v in (h, moved))
    assert torch.equal(a, b)


def test_a_stronger_edge_has_a_larger_share_and_without_beta_only_edges_count() -> None:
    affinity, h = window_affinity(4, 4, 1), torch.rand(16, 3)
    raised = affinity.clone()
    raised[0, 5, 1, 1] += 0.1  # from cell (1, 1) to its right
    assert probabilities(raised, h, 0.7)[5, 6] > probabilities(affinity, h, 0.7)[5, 6]
    torch.testing.assert_close(probabilities(affinity, h, 0.0), probabilities(affinity, torch.rand(16, 3), 0.0))


def test_released_cosines_cut_no_edge_and_centred_ones_do() -> None:
    affinity, h = window_affinity(5, 5, 2), torch.rand(1, 25, 4)
    tiling = make_tiling(5, 5, 4, 2)
    assert bool((torch.cosine_similarity(h[0, :, None], h[0, None], dim=2) >= 0).all())
    plain = attend(h, torch.ones(1), affinity, 4)
    centred = attend(h, torch.ones(1), affinity, 4, centred=True)
    assert torch.isfinite(centred).all()
    assert (plain - centred).abs().max() > 1e-3
    assert isinstance(tiling, Tiling)


def test_centred_cosines_cut_the_edges_that_a_dense_layer_cuts() -> None:
    affinity, h = window_affinity(5, 6, 2), torch.rand(1, 30, 4)
    own = h[0] - h[0].mean(0)
    cosine = torch.cosine_similarity(own[:, None], own[None], dim=2)
    p = (dense_bias(affinity)[0] + 0.8 * cosine).masked_fill(cosine < 0, -1e9).softmax(1)
    found = attend(h, torch.tensor([0.8]), affinity, 4, centred=True)
    torch.testing.assert_close(found[0], p @ h[0], atol=1e-5, rtol=1e-4)


# --- known answers


def accuracy(problems: list[Any], **changes: Any) -> list[float]:
    given = {"other_gated_weight": 0.0, "hidden": 32, **changes}
    solutions = solve([problem for problem, _ in problems], options(**given), CPU)
    pairs = zip(solutions, problems, strict=True)
    return [float((s.logits.argmax(0) == truth).float().mean()) for s, (_, truth) in pairs]


def test_edges_carry_few_seeds_over_a_region() -> None:
    """20 x 20 cells, a disc, weak features, 3 % seeds, seed loss alone."""
    with_edges = accuracy([disc_problem(n, edges=True) for n in range(3)])
    without = accuracy([disc_problem(n, edges=False) for n in range(3)])
    assert min(with_edges) >= 0.98
    assert np.mean(with_edges) - np.mean(without) >= 0.04


def test_a_tenth_of_wrong_seeds_is_borne() -> None:
    assert np.median(accuracy([disc_problem(n, edges=True, wrong=0.1, share=0.08) for n in range(3)])) >= 0.9


# --- stacks


def test_a_stack_gives_each_image_what_it_gets_alone_in_any_order() -> None:
    problems = [box_problem(n) for n in range(3)] + [box_problem(3, 6, 10)]
    settings = options(dropout=0.5, batch=3)
    together, alone = solve(problems, settings, CPU), [solve([p], settings, CPU)[0] for p in problems]
    backwards = solve(problems[::-1], settings, CPU)[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(a.logits, c.logits, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together[0].logits, together[1].logits)


def test_images_with_fewer_classes_are_not_moved_by_company_with_more() -> None:
    few, many = box_problem(0, channels=3), box_problem(1, channels=4)
    settings = options()
    together, alone = solve([few, many], settings, CPU), solve([few], settings, CPU)
    assert together[0].logits.shape[0] == 3
    torch.testing.assert_close(together[0].logits, alone[0].logits, atol=1e-4, rtol=1e-3)


def test_dense_and_tiled_models_give_the_same_labels() -> None:
    problem = box_problem(2)
    tiled, dense = (solve([problem], options(attention=how), CPU)[0].logits for how in ("tile", "dense"))
    torch.testing.assert_close(tiled, dense, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(("gate", "channels"), [("released", 2), ("centred", 3), ("released", 20)])
def test_mixing_class_scores_equals_mixing_features(gate: str, channels: int) -> None:
    model = stack([box_problem(3, channels=channels), box_problem(6, channels=channels)], gate=gate, hidden=20)
    weights, found = [model.embed, model.beta, model.out], []
    for logits in (model.forward(train=False)[1], model.logits(train=False)):
        pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        found.append((logits, torch.autograd.grad((logits * pull).sum(), weights)))
    torch.testing.assert_close(*(logits for logits, _ in found), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(*(gradients for _, gradients in found), atol=1e-3, rtol=1e-3)


def test_two_runs_give_the_same_bits_and_another_seed_gives_others() -> None:
    a, b, c = (solve([box_problem(4)], options(seed=seed), CPU)[0].logits for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_features_that_a_check_needs_change_no_step() -> None:
    """With dropout: the released check fires never, so the same draws give the same answer as no check."""
    given = {"dropout": 0.5, "check_start": 0, "check_every": 1}
    plain, checked = (
        solve([box_problem(7)], options(check=how, **given), CPU)[0].logits for how in ("none", "released")
    )
    torch.testing.assert_close(plain, checked, atol=1e-3, rtol=1e-2)


def test_missing_kinds_of_seeds_do_no_harm() -> None:
    """A box that fills the frame leaves no background seed; another image has no foreground seed."""
    full = box_problem(0)
    seeds = full.seeds.clone()
    seeds[seeds == 0] = 255
    for values in (seeds, torch.full_like(seeds, 255), torch.zeros_like(seeds)):
        problem = type(full)(
            *(getattr(full, f) for f in ("sample_id", "nodes", "affinity", "rgb")), values, full.boxes, 2
        )
        assert torch.isfinite(solve([problem], options(check="centred", check_start=2), CPU)[0].logits).all()


def test_the_callers_seeds_are_left_alone() -> None:
    problem = box_problem(5)
    before = problem.seeds.clone()
    found = solve([problem], options(check="quantile", check_threshold=0.5, check_start=5), CPU)[0]
    assert found.removed > 0
    assert torch.equal(problem.seeds, before)


def test_a_large_image_fits_where_the_dense_form_does_not() -> None:
    """1000 x 750 pixels, 125 x 94 cells: what one step keeps for its backward pass."""
    height, width = 94, 125
    problem = box_problem(0)
    nodes, affinity = torch.rand(4, height, width), torch.full((81, height, width), 0.5)
    seeds = torch.zeros(height, width, dtype=torch.long)
    large = type(problem)("large", nodes, affinity, torch.zeros(3, height, width), seeds, (), 2)
    model = stack([large], tile=8, hidden=8)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.forward(train=True)
    one_dense_matrix = 4 * (height * width) ** 2
    assert sum(kept.values()) < 0.5 * one_dense_matrix, f"{sum(kept.values()) / 2**20:.0f} MiB"


def test_random_walks_stay_inside_regions_and_keep_what_is_even() -> None:
    from tests.labelers.a2gnn_cases import border_affinity

    labels = torch.zeros(6, 8, dtype=torch.long)
    labels[:, 4:] = 1
    affinity = border_affinity(labels, 2, across=0.01)[0]
    maps = np.zeros((1, 6, 8), np.float32)
    maps[0, 3, 6] = 1
    spread = random_walk(affinity, maps)[0]
    assert spread[:, 4:].mean() > 20 * spread[:, :4].mean()
    assert spread[0, 4] > 0, "the whole region is reached"
    even = random_walk(affinity, np.ones((1, 6, 8), np.float32))
    np.testing.assert_allclose(even, 1, atol=1e-4)


def test_first_weights_are_xaviers() -> None:
    """Uniform up to sqrt(6 / (rows + columns)), as many columns as the image has classes; factors in [0, 1)."""
    one = stack([box_problem(0, channels=3)])
    inputs, hidden = one.embed.shape[1:]
    for weights, bound in ((one.embed, (6 / (inputs + hidden)) ** 0.5), (one.out[:, :, :3], (6 / (hidden + 3)) ** 0.5)):
        assert 0.9 * bound < float(weights.detach().abs().max()) <= bound
    assert (one.out[:, :, 3:] == 0).all()
    assert ((one.beta >= 0) & (one.beta < 1)).all()
