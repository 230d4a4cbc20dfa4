"""Adaptive bidirectional displacement: patches of one view overwrite patches of the other, picked by confidence.

Pure functions of tensors. Images are float (B, C, H, W), labels int64 (B, H, W), logits float (B, K, H, W); a grid of
g x g square patches has N = g² of them, numbered row by row. Scores and choices carry no gradient. Ties go to the
lowest number.

Source: H. Chi et al., "Adaptive Bidirectional Displacement for Semi-Supervised Medical Image Segmentation", CVPR 2024.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Move:
    """Which patch of which image is overwritten by which: int64 (B,) each.

    The weak view's patch `weak_to` takes the strong view's patch `weak_from`; the strong view's `strong_to` takes the
    weak view's `strong_from`. `acts` bool (B,): false leaves both views as they are.
    """

    weak_to: Tensor
    weak_from: Tensor
    strong_to: Tensor
    strong_from: Tensor
    acts: Tensor


def patch_means(x: Tensor, grid: int) -> Tensor:
    """Mean of (B, C, H, W) over each patch: (B, N, C).

    Raises:
        ValueError: the grid does not divide the image.
    """
    check_grid(x.shape[-2], x.shape[-1], grid)
    side = (x.shape[-2] // grid, x.shape[-1] // grid)
    return F.avg_pool2d(x, side).flatten(2).transpose(1, 2)


def check_grid(height: int, width: int, grid: int) -> None:
    """Raise ValueError unless `grid` x `grid` patches tile an image of this size."""
    if height % grid or width % grid:
        raise ValueError(
            f"expected sides that divide by the grid of {grid}, found {height}x{width}; "
            f"take {height + -height % grid}x{width + -width % grid}, or another grid"
        )


@torch.no_grad()
def confidence(logits: Tensor, grid: int) -> Tensor:
    """Mean over each patch of the highest class probability: (B, N)."""
    best = logits.detach().float().softmax(1).amax(1, keepdim=True)
    return patch_means(best, grid)[..., 0]


@torch.no_grad()
def semantics(logits: Tensor, grid: int) -> Tensor:
    """Log-probabilities of each patch, from its mean *logits* (not its mean probabilities): (B, N, K)."""
    return patch_means(logits.detach().float(), grid).log_softmax(-1)


@torch.no_grad()
def divergence(target: Tensor, candidates: Tensor) -> Tensor:
    """KL(target ‖ candidate) = Σ u (log u - log v) of log-probabilities (B, 1, K) and (B, k, K): (B, k)."""
    return (target.exp() * (target - candidates)).sum(-1)


@torch.no_grad()
def shows_organ(logits: Tensor, grid: int, background: int) -> Tensor:
    """Which patches hold a pixel that the network takes for anything but background: bool (B, N)."""
    return patch_means((logits.argmax(1, keepdim=True) != background).float(), grid)[..., 0] > 0


@torch.no_grad()
def reliable(
    logits_weak: Tensor,
    logits_strong: Tensor,
    grid: int,
    candidates: int,
    nearest: Tensor | None,
    organs: int | None = None,
) -> Move:
    """ABD-R: the least confident patch of a view gives way to one of the other view's `candidates` most confident
    patches, the one that looks most like it (least KL). `nearest` bool (B,), None = all: where false, the most
    confident patch is taken instead, as the BCP host does by a coin.

    `organs`: id of the background; then only patches in which the lending network finds something else are candidates,
    its own least confident one left out, and all patches where it finds nothing. None = any patch, as published.

    Raises:
        ValueError: more candidates than patches; with as many, the patch that gives way could be chosen itself.
    """
    weak, strong = confidence(logits_weak, grid), confidence(logits_strong, grid)
    if not 1 <= candidates < weak.shape[1]:
        raise ValueError(
            f"candidates: expected 1 to {weak.shape[1] - 1} of {weak.shape[1]} patches, found {candidates}"
        )
    z_weak, z_strong = semantics(logits_weak, grid), semantics(logits_strong, grid)
    weak_to, strong_to = lowest(weak), lowest(strong)
    weak_may = strong_may = torch.ones_like(weak, dtype=torch.bool)
    if organs is not None:
        weak_may = _lendable(logits_weak, grid, organs, weak_to)
        strong_may = _lendable(logits_strong, grid, organs, strong_to)
    return Move(
        weak_to=weak_to,
        weak_from=_match(z_weak, weak_to, z_strong, strong, strong_may, candidates, nearest),
        strong_to=strong_to,
        strong_from=_match(z_strong, strong_to, z_weak, weak, weak_may, candidates, nearest),
        acts=torch.ones_like(weak_to, dtype=torch.bool),
    )


def _lendable(logits: Tensor, grid: int, background: int, least: Tensor) -> Tensor:
    """Bool (B, N): the patches with organ but for number `least` (B,); all of an image that has none."""
    may = shows_organ(logits, grid, background).scatter(1, least[:, None], False)
    return may | ~may.any(1, keepdim=True)


def _match(
    own: Tensor, target: Tensor, other: Tensor, sure: Tensor, may: Tensor, candidates: int, nearest: Tensor | None
) -> Tensor:
    """For each image the number of the patch that resembles patch `target` (B,) most, of the `candidates` with the
    highest `sure` (B, N) among those that `may` (B, N) be lent.
    """
    top = highest(sure.masked_fill(~may, -1.0), candidates)
    wide = (-1, -1, own.shape[-1])
    uncertain = own.gather(1, target[:, None, None].expand(wide))
    found = other.gather(1, top[..., None].expand(wide))
    gaps = divergence(uncertain, found).masked_fill(~may.gather(1, top), float("inf"))
    best = top.gather(1, lowest(gaps)[:, None])[:, 0]
    return best if nearest is None else torch.where(nearest, best, top[:, 0])


@torch.no_grad()
def inverse(logits_weak: Tensor, logits_strong: Tensor, grid: int, acts: Tensor) -> Move:
    """ABD-I: the most confident patch of a view gives way to the other view's least confident one, where `acts`."""
    weak, strong = confidence(logits_weak, grid), confidence(logits_strong, grid)
    return Move(
        weak_to=highest(weak, 1)[:, 0],
        weak_from=lowest(strong),
        strong_to=highest(strong, 1)[:, 0],
        strong_from=lowest(weak),
        acts=acts,
    )


def lowest(scores: Tensor) -> Tensor:
    """Position of the smallest value along the last axis, the first of equals."""
    return scores.sort(dim=-1, stable=True).indices[..., 0]


def highest(scores: Tensor, count: int) -> Tensor:
    """Positions of the `count` largest values, largest first, the first of equals before the others."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def displace(weak: Tensor, strong: Tensor, move: Move, grid: int) -> Tensor:
    """Carry out a move on two aligned views (B, [C,] H, W) of the same images: (2B, [C,] H, W), the new weak views
    first. The inputs are left as they are. The strong view reads the weak one after its own change, as released.
    """
    check_grid(weak.shape[-2], weak.shape[-1], grid)
    new_weak = _overwrite(weak, move.weak_to, strong, move.weak_from, move.acts, grid)
    new_strong = _overwrite(strong, move.strong_to, new_weak, move.strong_from, move.acts, grid)
    return torch.cat([new_weak, new_strong])


def _overwrite(onto: Tensor, to: Tensor, source: Tensor, start: Tensor, acts: Tensor, grid: int) -> Tensor:
    """`onto` with patch `to` of each image replaced by patch `start` of `source`, where `acts`."""
    out = onto.clone(memory_format=torch.preserve_format)
    into, given = _patches(out, grid), _patches(source, grid)
    image = acts.nonzero()[:, 0]
    to, start = to[image], start[image]
    into[image, to // grid, to % grid] = given[image, start // grid, start % grid]
    return out


def _patches(x: Tensor, grid: int) -> Tensor:
    """A view of (B, [C,] H, W) as (B, g, g, [C,] p, q): writing into it writes into `x`."""
    height, width = x.shape[-2] // grid, x.shape[-1] // grid
    split = x.view(*x.shape[:-2], grid, height, grid, width)  # (B, [C,] g, p, g, q)
    return split.movedim((-4, -2), (1, 2))
