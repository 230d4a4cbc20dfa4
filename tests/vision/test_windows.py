"""Energies over near pairs against brute force over all pairs, and the properties of the two methods that use them."""

import pytest
import torch
from torch import Tensor

from maskmill.vision.windows import (
    colour_kernel,
    feature_distances,
    gate_pairs,
    half_offsets,
    l1_energy,
    potts_energy,
    spatial_kernel,
)

XY, COLOUR = 6.0, 0.1
SIZES = [(1, 7, 9, 5), (2, 6, 11, 2), (3, 4, 3, 5), (1, 1, 8, 3)]  # batch, height, width, radius


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(height: int, width: int, radius: int) -> tuple[Tensor, Tensor]:
    """All ordered pairs within the window, bool (hw, hw), and their squared distances."""
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    dy, dx = (t.flatten()[:, None] - t.flatten() for t in (ys, xs))
    inside = (torch.maximum(dy.abs(), dx.abs()) <= radius) & ((dy != 0) | (dx != 0))
    return inside, (dy**2 + dx**2).double()


def brute(p: Tensor, image: Tensor, valid: Tensor, radius: int, energy: str, norm: float) -> Tensor:
    """The definition, over all ordered pairs of pixels."""
    inside, apart = near(p.shape[2], p.shape[3], radius)
    total = p.new_zeros(())
    for labels, colours, known in zip(p.flatten(2), image.flatten(2), valid.flatten(1), strict=True):
        gap = ((colours[:, :, None] - colours[:, None]) ** 2).sum(dim=0)
        k = torch.exp(-apart / (2 * XY**2) - gap / (2 * COLOUR**2)) * inside * known[:, None] * known
        l1 = (labels[:, :, None] - labels[:, None]).abs().sum(dim=0)
        total = total + (k * (1 - labels.T @ labels if energy == "potts" else l1)).sum()
    return total / norm


def fast(p: Tensor, image: Tensor, valid: Tensor, radius: int, energy: str, norm: float) -> Tensor:
    kernel = gate_pairs(colour_kernel(image, radius, XY, COLOUR), valid, radius)
    return (potts_energy if energy == "potts" else l1_energy)(p, kernel, radius, norm)


@pytest.mark.parametrize("energy", ["potts", "l1"])
@pytest.mark.parametrize(("batch", "height", "width", "radius"), SIZES)
def test_value_and_gradient_are_those_of_brute_force(
    energy: str, batch: int, height: int, width: int, radius: int
) -> None:
    p = rand(batch, 3, height, width).softmax(dim=1)
    image, valid = 0.2 * rand(batch, 3, height, width, seed=1), rand(batch, height, width, seed=2) > 0.2
    results = []
    for function in (fast, brute):
        leaf = p.clone().requires_grad_()
        value = function(leaf, image, valid, radius, energy, 7.0)
        (grad,) = torch.autograd.grad(value, leaf) if value.requires_grad else (torch.zeros_like(p),)
        results.append((value.detach(), grad))
    assert abs(results[0][0] - results[1][0]) < 1e-10
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=1e-12)
    if energy == "potts":  # -2 K P / n
        single = fast(p.float(), image.float(), valid, radius, energy, 7.0)
        assert float(single) == pytest.approx(float(results[1][0]), rel=1e-5)


def test_gradients_pass_gradcheck_and_are_finite_at_ties() -> None:
    p = rand(1, 2, 3, 4).requires_grad_()
    kernel = rand(1, len(half_offsets(2)), 3, 4, seed=3)
    kernel = gate_pairs(kernel, torch.ones(1, 3, 4, dtype=torch.bool), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: potts_energy(a, kernel.detach(), 2, 3.0), (p,))
    assert torch.autograd.gradcheck(lambda a: l1_energy(a, kernel.detach(), 2, 3.0), (p,))
    features = rand(1, 2, 3, 3, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: feature_distances(e, 2), (features,))
    flat = torch.full((1, 1, 3, 4), 0.5, requires_grad=True)
    l1_energy(flat, kernel.detach().float(), 2, 3.0).backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    assert not flat.grad.any()


def test_the_kernels_own_gradient_is_that_of_brute_force() -> None:
    features = (0.3 * rand(1, 2, 4, 4)).requires_grad_()
    p = rand(1, 3, 4, 4, seed=1).softmax(dim=1)
    potts_energy(p, torch.exp(-feature_distances(features, 2)), 2, 1.0).backward()  # type: ignore[no-untyped-call]
    slow = features.detach().clone().requires_grad_()
    flat, labels = slow.flatten(2)[0], p.flatten(2)[0]
    distance = (flat[:, :, None] - flat[:, None]).abs().mean(dim=0)
    total = (torch.exp(-distance) * near(4, 4, 2)[0] * (1 - labels.T @ labels)).sum()
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(features.grad, slow.grad, rtol=0, atol=1e-12)


def test_potts_is_zero_for_constant_one_hot_maps_only_and_l1_for_all_constant_maps() -> None:
    kernel = colour_kernel(rand(2, 3, 9, 8), 3, XY, 10.0).float()
    one_hot = torch.zeros(2, 21, 9, 8)
    one_hot[:, 4] = 1
    assert float(potts_energy(one_hot, kernel, 3, 1.0)) == 0.0
    uniform = torch.full((2, 21, 9, 8), 1 / 21)
    mass = 2 * float(kernel.sum()) / (2 * 9 * 8)
    assert float(potts_energy(uniform, kernel, 3, 2 * 9 * 8)) == pytest.approx(20 / 21 * mass, rel=1e-5)
    for value in (0.0, 0.5, 1.0):
        assert float(l1_energy(torch.full((2, 1, 9, 8), value), kernel, 3, 1.0)) == 0.0


def test_invariances() -> None:
    p, image = rand(1, 4, 6, 7).softmax(dim=1), 0.3 * rand(1, 3, 6, 7, seed=1)
    valid = torch.ones(1, 6, 7, dtype=torch.bool)
    for energy in ("potts", "l1"):
        value = fast(p, image, valid, 3, energy, 1.0)
        same = [
            (p[:, [2, 0, 3, 1]], image),
            (p.flip(-1), image.flip(-1)),
            (p.flip(-2), image.flip(-2)),
            (p.mT, image.mT),
            (p.rot90(1, (2, 3)), image.rot90(1, (2, 3))),
            (p, image + 5.0),
            (p, image[:, [1, 2, 0]]),
        ]
        for other_p, other_image in same:
            other_valid = torch.ones(1, *other_p.shape[2:], dtype=torch.bool)
            torch.testing.assert_close(fast(other_p, other_image, other_valid, 3, energy, 1.0), value)
    saliency = rand(1, 1, 6, 7, seed=5)
    coherence = fast(saliency, image, valid, 3, "l1", 1.0)
    torch.testing.assert_close(fast(1 - saliency, image, valid, 3, "l1", 1.0), coherence)
    torch.testing.assert_close(fast(0.5 * saliency, image, valid, 3, "l1", 1.0), 0.5 * coherence)


def test_kernels_lie_between_0_and_1_and_have_their_limits() -> None:
    image = rand(1, 3, 6, 7)
    kernel = colour_kernel(image, 3, XY, COLOUR)
    assert 0 <= float(kernel.min()) <= float(kernel.max()) <= 1
    torch.testing.assert_close(colour_kernel(image, 3, XY, 1e9), spatial_kernel(image, 3, XY))
    assert not colour_kernel(image, 3, XY, 1e-6).any()


def test_a_step_costs_nothing_on_a_colour_edge_and_pulls_together_inside_a_flat_region() -> None:
    step = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    step[..., 8:] = 1
    flat = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    edge = step.expand(1, 3, 16, 16)

    def judged(image: Tensor) -> tuple[float, Tensor]:
        p = step.clone().requires_grad_()
        value = l1_energy(p, colour_kernel(image, 5, XY, COLOUR), 5, 256.0)
        return value.item(), torch.autograd.grad(value, p)[0]

    value, grad = judged(edge)
    assert value < 1e-20
    assert float(grad.abs().max()) < 1e-20
    value, grad = judged(flat)
    assert value > 6
    assert float(grad[0, 0, 8, 7]) < 0 < float(grad[0, 0, 8, 8])


def test_repeated_calls_agree_and_leave_their_inputs_untouched() -> None:
    p, image = rand(2, 1, 8, 8).float(), rand(2, 3, 8, 8, seed=1).float()
    before = p.clone(), image.clone()
    kernel = colour_kernel(image, 3, XY, COLOUR)
    values = [float(l1_energy(p, colour_kernel(image, 3, XY, COLOUR), 3, 1.0)) for _ in range(3)]
    assert values == [float(l1_energy(p, kernel, 3, 1.0))] * 3, "a shared kernel equals rebuilt ones"
    assert torch.equal(p, before[0])
    assert torch.equal(image, before[1])


def test_what_a_pixel_does_stays_within_the_radius() -> None:
    image = 0.1 * rand(1, 3, 12, 12)

    def grad(at: float) -> Tensor:
        p = rand(1, 1, 12, 12, seed=2)
        p[0, 0, 2, 2] = at
        p.requires_grad_()
        return torch.autograd.grad(l1_energy(p, colour_kernel(image, 3, XY, COLOUR), 3, 1.0), p)[0]

    changed = (grad(0.0) - grad(1.0))[0, 0] != 0
    assert changed[:6, :6].any()
    assert not changed[6:].any()
    assert not changed[:, 6:].any()


def test_invalid_pixels_have_no_gradient_and_no_influence() -> None:
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[0, :3] = False

    def judged(p: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        leaf = p.clone().requires_grad_()
        value = fast(leaf, image, valid, 3, "potts", 1.0)
        return value, torch.autograd.grad(value, leaf)[0]

    p, image = rand(1, 3, 8, 8), 0.1 * rand(1, 3, 8, 8, seed=1)
    value, grad = judged(p, image)
    assert not grad[:, :, :3].any()
    p[:, :, :3], image[:, :, :3] = 9.0, -9.0
    other, other_grad = judged(p, image)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_grad, grad)


def test_duplicating_channels_of_features_changes_no_distance() -> None:
    features = rand(2, 5, 6, 6)
    distances = feature_distances(features, 2)
    torch.testing.assert_close(feature_distances(torch.cat([features, features], dim=1), 2), distances)
    torch.testing.assert_close(feature_distances(features + 3.0, 2), distances)
    assert float(torch.exp(-distances).max()) <= 1.0


def test_radius_must_reach_a_neighbour() -> None:
    with pytest.raises(ValueError, match="expected 1 or more, found 0"):
        half_offsets(0)
