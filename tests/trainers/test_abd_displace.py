"""Displacement as a pure function: the provenance of every pixel, which patches move, and what does not matter."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskmill.trainers.abd.displace import Move, confidence, displace, inverse, patch_means, reliable, semantics

torch.set_num_threads(1)
GRID, SIDE, CLASSES = 4, 6, 3
SIZE, PATCHES = GRID * SIDE, GRID * GRID


def logits_pair(seed: int, count: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    coarse = 3 * torch.randn(2, count, CLASSES, GRID, GRID)  # patches differ from each other
    full = coarse.repeat_interleave(SIDE, -1).repeat_interleave(SIDE, -2) + torch.randn(2, count, CLASSES, SIZE, SIZE)
    return full[0], full[1]


def pixel_ids(count: int) -> tuple[Tensor, Tensor]:
    """Weak and strong views (B, 1, H, W) in which every pixel of both has a number of its own."""
    ids = torch.arange(2 * count * SIZE * SIZE, dtype=torch.float64).reshape(2, count, 1, SIZE, SIZE)
    return ids[0], ids[1]


def patch(x: Tensor, number: Tensor | int) -> Tensor:
    top, left = divmod(int(number), GRID)
    return x[..., top * SIDE : (top + 1) * SIDE, left * SIDE : (left + 1) * SIDE]


def moves(count: int = 3, seed: int = 0) -> list[tuple[str, Move]]:
    weak, strong = logits_pair(seed, count)
    coins = torch.arange(count) % 2 == 0
    return [
        ("reliable", reliable(weak, strong, GRID, 4, None)),
        ("plain", reliable(weak, strong, GRID, 4, ~coins)),
        ("inverse", inverse(weak, strong, GRID, coins)),
    ]


@pytest.mark.parametrize(("kind", "move"), moves(4, 1))
def test_every_pixel_is_one_of_its_own_image_at_the_same_place_in_its_patch(kind: str, move: Move) -> None:
    weak, strong = pixel_ids(4)
    out = displace(weak, strong, move, GRID)
    assert out.shape == (8, 1, SIZE, SIZE)
    assert out.dtype == weak.dtype
    for row, value in enumerate(out):
        view, image = divmod(row, 4)
        source = value[0].long()
        stored_image = source // (SIZE * SIZE) % 4
        assert (stored_image == image).all(), "pixels of another image"
        y, x = source % (SIZE * SIZE) // SIZE, source % SIZE
        at_y, at_x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        assert (y % SIDE == at_y % SIDE).all()
        assert (x % SIDE == at_x % SIDE).all()
        foreign = source // (SIZE * SIZE * 4) != view
        shares = patch_means(foreign[None, None].float(), GRID)[0, :, 0]
        assert set(shares.tolist()) <= {0.0, 1.0}, "a patch comes whole or not at all"
        expected = 1 if bool(move.acts[image]) else 0
        assert int(shares.sum()) == expected
        untouched = shares == 0
        here = torch.arange(PATCHES)[untouched]
        assert all(torch.equal(patch(value, n), patch((weak, strong)[view][image], n)) for n in here)


def test_inputs_are_left_alone_even_on_a_grid_of_one() -> None:
    for grid in (1, GRID):
        weak, strong = pixel_ids(2)
        before = weak.clone(), strong.clone()
        zero = torch.zeros(2, dtype=torch.long)
        displace(weak, strong, Move(zero, zero, zero, zero, torch.ones(2, dtype=torch.bool)), grid)
        assert torch.equal(weak, before[0])
        assert torch.equal(strong, before[1])


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_reliable_fills_the_least_confident_patch_with_the_nearest_of_the_best(seed: int, k: int) -> None:
    weak, strong = logits_pair(seed)
    move = reliable(weak, strong, GRID, k, None)
    scores = confidence(weak, GRID), confidence(strong, GRID)
    z = semantics(weak, GRID), semantics(strong, GRID)
    assert torch.equal(move.weak_to, scores[0].argmin(1))
    assert torch.equal(move.strong_to, scores[1].argmin(1))
    for image, (to, start, own, other) in itertools.product(
        range(3), ((move.weak_to, move.weak_from, 0, 1), (move.strong_to, move.strong_from, 1, 0))
    ):
        top = scores[other][image].topk(k).indices.tolist()
        u = z[own][image, to[image]]
        gaps = {c: float((u.exp() * (u - z[other][image, c])).sum()) for c in top}
        assert int(start[image]) == min(gaps, key=lambda c: gaps[c])
        assert to[image] != scores[own][image].argmax(), "the best patch must stay"
    if k == 1:
        assert torch.equal(move.weak_from, scores[1].argmax(1))
        assert torch.equal(move.strong_from, scores[0].argmax(1))


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_organs_are_lent_where_there_are_any(seed: int, k: int) -> None:
    """Candidates: the surest of the patches in which the lender finds an organ, but its own least sure; all patches
    where it finds none.
    """
    weak, strong = logits_pair(seed)
    weak[:, 0] += 8.0
    strong[:, 0] += 8.0
    strong[2, 0] += 100  # nothing but background
    move = reliable(weak, strong, GRID, k, None, 0)
    free = reliable(weak, strong, GRID, k, None)
    assert torch.equal(move.weak_to, free.weak_to)
    assert torch.equal(move.strong_to, free.strong_to)
    assert move.weak_from[2] == free.weak_from[2]
    for lender, least, own, to, start in (
        (strong, move.strong_to, weak, move.weak_to, move.weak_from),
        (weak, move.weak_to, strong, move.strong_to, move.strong_from),
    ):
        sure, z, mine = confidence(lender, GRID), semantics(lender, GRID), semantics(own, GRID)
        for image in range(3):
            labels = lender[image].argmax(0)
            may = [n for n in range(PATCHES) if (patch(labels, n) != 0).any() and n != least[image]]
            may = may or list(range(PATCHES))
            top = sorted(may, key=lambda n: -float(sure[image, n]))[:k]
            u = mine[image, to[image]]
            gaps = {c: float((u.exp() * (u - z[image, c])).sum()) for c in top}
            assert int(start[image]) == min(gaps, key=lambda c: gaps[c])


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_inverse_overwrites_only_the_most_confident_patch_by_the_least(seed: int) -> None:
    weak, strong = logits_pair(seed)
    move = inverse(weak, strong, GRID, torch.ones(3, dtype=torch.bool))
    scores = confidence(weak, GRID), confidence(strong, GRID)
    assert torch.equal(move.weak_to, scores[0].argmax(1))
    assert torch.equal(move.weak_from, scores[1].argmin(1))
    assert torch.equal(move.strong_to, scores[1].argmax(1))
    assert torch.equal(move.strong_from, scores[0].argmin(1))


def test_labels_move_with_their_pixels_and_without_a_coin_nothing_does() -> None:
    weak, strong = pixel_ids(4)
    logits = logits_pair(3, 4)
    coins = torch.tensor([True, False, True, False])
    move = inverse(*logits, GRID, coins)
    images = displace(weak, strong, move, GRID)
    labels = displace(weak[:, 0].long(), strong[:, 0].long(), move, GRID)
    assert torch.equal(images[:, 0].long(), labels)
    changed = (images != torch.cat([weak, strong])).flatten(1).any(1)
    assert torch.equal(changed, torch.cat([coins, coins]))


def test_the_order_of_kl_decides() -> None:
    """The uncertain patch comes first: KL(u‖a) < KL(u‖b) although KL(a‖u) > KL(b‖u)."""
    u, a, b = (torch.tensor(p).log() for p in ([0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.05, 0.4, 0.55]))

    def kl(p: Tensor, q: Tensor) -> float:
        return float((p.exp() * (p - q)).sum())

    assert (kl(u, a) < kl(u, b)) != (kl(a, u) < kl(b, u)), "the case must tell the two orders apart"
    chosen = _nearest(u, a, b)
    assert chosen == (0 if kl(u, a) < kl(u, b) else 1)


def _nearest(u: Tensor, a: Tensor, b: Tensor) -> int:
    """0 if patch `a` of the strong view is preferred for the weak view's least sure patch `u`, else 1."""
    weak = torch.zeros(1, CLASSES, SIZE, SIZE)
    weak[:, 0] = 50.0
    patch(weak, 5)[...] = u[None, :, None, None]
    strong = torch.zeros(1, CLASSES, SIZE, SIZE)
    strong[0, :2] = 1e-3  # unsure everywhere else
    patch(strong, 2)[...] = a[None, :, None, None]
    patch(strong, 9)[...] = b[None, :, None, None]
    move = reliable(weak, strong, GRID, 2, None)
    assert int(move.weak_to) == 5
    assert int(move.weak_from) in (2, 9)
    return 0 if int(move.weak_from) == 2 else 1


def test_semantics_are_of_mean_logits_not_mean_probabilities() -> None:
    logits = torch.zeros(1, 2, SIZE, SIZE)
    logits[0, 0, 0, 0] = 900.0  # one pixel that is very sure
    found = semantics(logits, GRID)[0, 0].exp()
    assert found[0] > 0.99
    assert patch_means(logits.softmax(1), GRID)[0, 0, 0] < 0.55


def test_constants_added_to_a_pixel_change_nothing_and_images_permute() -> None:
    weak, strong = logits_pair(7)
    move = reliable(weak, strong, GRID, 4, None)
    shift = torch.randn(3, 1, SIZE, SIZE)
    shifted = reliable(weak + shift, strong - shift, GRID, 4, None)
    order = torch.tensor([2, 0, 1])
    permuted = reliable(weak[order], strong[order], GRID, 4, None)
    for name, value in vars(move).items():
        assert torch.equal(value, getattr(shifted, name))
        assert torch.equal(value[order], getattr(permuted, name))
    x, y = pixel_ids(3)
    plain = displace(x, y, move, GRID).unflatten(0, (2, 3))
    assert torch.equal(displace(x[order], y[order], permuted, GRID).unflatten(0, (2, 3)), plain[:, order])


def test_no_gradient_through_scores_and_choices() -> None:
    weak, strong = (x.requires_grad_() for x in logits_pair(0))
    for move in (reliable(weak, strong, GRID, 4, None), inverse(weak, strong, GRID, torch.ones(3, dtype=torch.bool))):
        assert not any(value.requires_grad for value in vars(move).values())
    assert not confidence(weak, GRID).requires_grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_equals_a_loop_over_images(count: int, layout: torch.memory_format) -> None:
    weak_logits, strong_logits = logits_pair(11, count)
    weak, strong = (torch.randn(count, 3, SIZE, SIZE).contiguous(memory_format=layout) for _ in range(2))
    move = reliable(weak_logits, strong_logits, GRID, 4, None)
    wanted = [weak.clone(), strong.clone()]
    for i in range(count):
        scores = [
            [float(patch(x[i].softmax(0).amax(0), n).mean()) for n in range(PATCHES)]
            for x in (weak_logits, strong_logits)
        ]
        q = [[patch(x[i], n).mean((1, 2)).softmax(0) for n in range(PATCHES)] for x in (weak_logits, strong_logits)]
        for own, other in ((0, 1), (1, 0)):
            to = min(range(PATCHES), key=lambda n: scores[own][n])
            top = sorted(range(PATCHES), key=lambda n: -scores[other][n])[:4]
            u = q[own][to]
            start = min(top, key=lambda c: float((u * (u.log() - q[other][c].log())).sum()))
            patch(wanted[own][i], to)[...] = patch(wanted[other][i], start)
    assert torch.equal(displace(weak, strong, move, GRID), torch.cat(wanted))


def test_overwritten_content_is_lost_and_its_source_doubled() -> None:
    """A copy, no exchange: the multiset of pixels is not preserved."""
    weak, strong = pixel_ids(2)
    out = displace(weak, strong, reliable(*logits_pair(0, 2), GRID, 4, None), GRID)
    before = torch.cat([weak, strong]).flatten().sort().values
    assert not torch.equal(out.flatten().sort().values, before)
    assert len(out.unique()) == len(before) - 2 * 2 * SIDE * SIDE


def test_ties_go_to_the_first_patch() -> None:
    flat = torch.zeros(2, CLASSES, SIZE, SIZE)
    move = reliable(flat, flat, GRID, 4, None)
    assert move.weak_to.tolist() == move.strong_to.tolist() == [0, 0]
    assert move.weak_from.tolist() == [0, 0]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"divide by the grid of 5, found 24x24; take 25x25"):
        confidence(torch.zeros(1, 2, 24, 24), 5)
    with pytest.raises(ValueError, match="expected 1 to 15 of 16 patches, found 16"):
        reliable(*logits_pair(0), GRID, 16, None)
