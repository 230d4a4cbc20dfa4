"""Losses of the graph models, for stacks of images.

Source: A2GNN, arXiv 2106.04054, and its released code; the gated CRF loss is that of A. Obukhov et al., arXiv
1906.04651. All losses are sums over the images of a stack of each image's own loss, so that no image feels another.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.trainers.affinity.pairs import half_offsets

EPSILON = 1e-5


@dataclass(frozen=True, eq=False)
class BoxTable:
    """All boxes of a stack, on the loss grid: image, class channel, and rows y0..y1-1, columns x0..x1-1."""

    image: Tensor  # int64 (M,)
    channel: Tensor  # int64 (M,)
    corners: list[tuple[int, int, int, int]]  # y0, x0, y1, x1

    def __len__(self) -> int:
        return len(self.corners)


@dataclass(frozen=True, eq=False)
class Points:
    """Chosen pixels of boxes: `box` (P,), `y`, `x` (P,) on the loss grid; h_b + w_b a box, repeats kept."""

    box: Tensor
    y: Tensor
    x: Tensor


def multi_points(logits: Tensor, boxes: BoxTable) -> Points:
    """In every row of a box the column, in every column the row, with the largest logit of the box's class; the first
    of equals. `logits` (B, K, H, W).
    """
    number, rows, columns = [], [], []
    for i, (y0, x0, y1, x1) in enumerate(boxes.corners):
        plane = logits[boxes.image[i], boxes.channel[i], y0:y1, x0:x1]
        best_x, best_y = plane.argmax(dim=1), plane.argmax(dim=0)
        rows += [torch.arange(y0, y1, device=plane.device), best_y + y0]
        columns += [best_x + x0, torch.arange(x0, x1, device=plane.device)]
        number.append(torch.full((y1 - y0 + x1 - x0,), i, device=plane.device))
    empty = [torch.zeros(0, dtype=torch.long, device=logits.device)]
    return Points(torch.cat(number or empty), torch.cat(rows or empty), torch.cat(columns or empty))


def points_per_image(points: Points, boxes: BoxTable, images: int) -> Tensor:
    """Float (B,): the number of points of each image, at least 1."""
    return torch.bincount(boxes.image[points.box], minlength=images).clamp(min=1).float()


def seed_weights(seeds: Tensor, channels: int) -> Tensor:
    """Float (B, K, H, W): 1 / n_0 at background seeds (channel 0), 1 / n_fg at all others, where n counts the seeds of
    that kind in the image. A kind without seeds has no weight.
    """
    known = seeds < channels
    behind, front = known & (seeds == 0), known & (seeds > 0)
    weight = behind / behind.sum((1, 2), keepdim=True).clamp(min=1)
    weight = weight + front / front.sum((1, 2), keepdim=True).clamp(min=1)
    chosen = F.one_hot(seeds.masked_fill(~known, 0), channels).movedim(-1, 1)
    return chosen * weight[:, None]


def point_weights(points: Points, boxes: BoxTable, like: Tensor) -> Tensor:
    """Float like (B, K, H, W): at each point 1 / (points of its image), in the channel of its box."""
    batch, channels, height, width = like.shape
    image, channel = boxes.image[points.box], boxes.channel[points.box]
    place = ((image * channels + channel) * height + points.y) * width + points.x
    share = 1 / points_per_image(points, boxes, batch)[image]
    return torch.zeros(like.numel(), device=like.device).index_add_(0, place, share).view_as(like)


def similarity_loss(features: Tensor, points: Points, boxes: BoxTable, images: int) -> Tensor:
    """Sum over boxes of sum_pq (1 - cos(F_p, F_q) + 1e-5), divided per image by the sum of |M_b|^2.

    `features` (P, D) of the points. A sum of all cosines is the squared length of the sum of unit vectors.
    """
    unit = features * features.square().sum(dim=1, keepdim=True).clamp(min=1e-12).rsqrt()
    sums = torch.zeros(len(boxes), features.shape[1], device=features.device).index_add(0, points.box, unit)
    counts = torch.bincount(points.box, minlength=len(boxes)).float()
    total = torch.zeros(images, device=features.device).index_add_(0, boxes.image, counts.square()).clamp(min=1)
    spread = counts.square() * (1 + EPSILON) - sums.square().sum(dim=1)
    return (spread / total[boxes.image]).sum()


def kernel_product(kernel: Tensor, p: Tensor, radius: int) -> Tensor:
    """sum_j K_ij p_j for pairs `kernel` (B, P, h, w) and `p` (B, C, h, w)."""
    out = torch.zeros_like(p)
    height, width = p.shape[2:]
    for n, (dy, dx) in enumerate(half_offsets(radius)):
        rows, columns, left = max(height - dy, 0), max(width - abs(dx), 0), min(max(-dx, 0), width)
        here = (..., slice(0, rows), slice(left, left + columns))
        there = (..., slice(dy, dy + rows), slice(left + dx, left + dx + columns))
        weight = kernel[:, n : n + 1][here]
        out[here].addcmul_(weight, p[there])
        out[there].addcmul_(weight, p[here])
    return out


class _GatedCrf(torch.autograd.Function):
    """(sum_ij K_ij - sum_i p_i . q_i) / N with q = K p; K is symmetric, so the gradient is -2 q / N."""

    @staticmethod
    def forward(ctx: "torch.autograd.function.FunctionCtx", p: Tensor, kernel: Tensor, radius: int) -> Tensor:
        q = kernel_product(kernel, p, radius)
        count = p.shape[2] * p.shape[3]
        ctx.save_for_backward(q)
        return (2 * kernel.sum() - (p * q).sum()) / count

    @staticmethod
    def backward(ctx: "torch.autograd.function.FunctionCtx", *grads: Tensor) -> tuple[Tensor, None, None]:
        (q,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return -2 * grads[0] * q / (q.shape[2] * q.shape[3]), None, None


def gated_crf_loss(p: Tensor, kernel: Tensor, radius: int) -> Tensor:
    """Sum over images of (1/N) sum_i sum_j K_ij (1 - p_i . p_j), j in the window of i, i itself left out.

    `p` (B, K, h, w) sums to 1 over K; `kernel` (B, P, h, w) as made by `colour_kernel`.
    """
    out: Tensor = _GatedCrf.apply(p, kernel, radius)
    return out


def interpolation(y: Tensor, x: Tensor, scale: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cells int64 (P, 4), row-major, and weights (P, 4) of bilinear enlargement by `scale` (align_corners=False)."""
    height, width = grid
    sides = []
    for place, size in ((y, height), (x, width)):
        source = ((place + 0.5) / scale - 0.5).clamp(min=0)
        low = source.floor().long().clamp(max=size - 1)
        sides.append((low, (low + 1).clamp(max=size - 1), source - low))
    (y0, y1, fy), (x0, x1, fx) = sides
    cells = torch.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], dim=1)
    weights = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], dim=1)
    return cells, weights
