"""Attention over the window of each cell, exactly, in tiles: t x t queries against the (t + 2r)^2 keys around them.

Source: the affinity attention layer of A2GNN (arXiv 2106.04054). A dense layer scores all N x N pairs and throws all
but (2r + 1)^2 N of them away; tiles score (t + 2r)^2 N and give the same numbers. Cells are held tile by tile, so that
queries are a view; keys are gathered.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

OUTSIDE = -1e9  # score of a pair that is no edge
SHARPNESS = 10.0  # factor of the affinity in a score


@dataclass(frozen=True, eq=False)
class Tiling:
    """Where the h x w cells of a grid lie tile by tile, and which cells each tile sees.

    Slots are numbered tile by tile, row by row in a tile: T * t^2 of them, some beyond the grid. `cells` is the cell of
    each slot and `slots` the slot of each cell (row-major); `keys` the slots that a tile sees. An index that stands for
    nothing is one past the last.
    """

    height: int
    width: int
    tile: int
    radius: int
    cells: Tensor  # (T t^2)
    slots: Tensor  # (h w)
    keys: Tensor  # (T, S), S = (t + 2r)^2
    users: Tensor  # (T t^2, M): places in `keys` that hold each slot
    offsets: Tensor  # (t^2, S): window index of key s seen from query q, or (2r + 1)^2 where it is out of reach

    @property
    def tiles(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> "Tiling":
        parts = (part.to(device) for part in (self.cells, self.slots, self.keys, self.users, self.offsets))
        return Tiling(self.height, self.width, self.tile, self.radius, *parts)

    def fold(self, values: Tensor) -> Tensor:
        """Row-major cells (B, h w, D) to slots (B, T t^2, D); slots beyond the grid are 0."""
        return take(values, self.cells, self.slots[:, None])

    def unfold(self, values: Tensor) -> Tensor:
        """Slots (B, T t^2, D) to row-major cells (B, h w, D)."""
        return take(values, self.slots, self.cells[:, None])

    def bias(self, affinity: Tensor) -> Tensor:
        """10 a_ij of edges and -1e9 of all other pairs: (B, (2r + 1)^2, h, w) to (B, T, t^2, S).

        A slot beyond the grid attends to itself alone, where it does no harm.
        """
        window = affinity.flatten(2).transpose(1, 2)  # (B, h w, window)
        window = torch.where(window > 0, SHARPNESS * window, OUTSIDE)
        window = torch.cat([window, window.new_full((*window.shape[:2], 1), OUTSIDE)], dim=2)
        nowhere = window.new_full((len(window), 1, window.shape[2]), OUTSIDE)
        nowhere[:, :, (2 * self.radius + 1) ** 2 // 2] = 0.0
        queries = torch.cat([window, nowhere], dim=1)[:, self.cells]  # (B, T t^2, window + 1)
        queries = queries.view(len(affinity), self.tiles, self.tile**2, -1)
        index = self.offsets.expand(len(affinity), self.tiles, -1, -1)
        ends = torch.cat([self.cells, self.cells.new_tensor([self.height * self.width])])[self.keys]
        own = self.offsets == (2 * self.radius + 1) ** 2 // 2
        missing = (ends == self.height * self.width)[:, None] & ~own  # keys beyond the grid
        return queries.gather(3, index).masked_fill(missing, OUTSIDE)


@functools.lru_cache(maxsize=64)
def make_tiling(height: int, width: int, tile: int, radius: int) -> Tiling:
    """The tiling of a grid."""
    rows, columns = -(-height // tile), -(-width // tile)
    side, halo = tile * tile, tile + 2 * radius

    def slot(y: Tensor, x: Tensor) -> Tensor:
        inside = (y >= 0) & (y < rows * tile) & (x >= 0) & (x < columns * tile)
        found = ((y // tile) * columns + x // tile) * side + (y % tile) * tile + x % tile
        return torch.where(inside, found, rows * columns * side)

    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    slots = slot(y, x).flatten()
    cells = torch.full((rows * columns * side,), height * width)
    cells[slots] = torch.arange(height * width)

    corner_y = torch.arange(rows * columns)[:, None] // columns * tile
    corner_x = torch.arange(rows * columns)[:, None] % columns * tile
    step = torch.arange(halo * halo)
    keys = slot(corner_y - radius + step // halo, corner_x - radius + step % halo)
    users = _places(keys.flatten(), rows * columns * side)

    query = torch.arange(side)[:, None]
    dy, dx = step // halo - radius - query // tile, step % halo - radius - query % tile
    reach = (dy.abs() <= radius) & (dx.abs() <= radius)
    width_ = 2 * radius + 1
    offsets = torch.where(reach, (dy + radius) * width_ + dx + radius, width_ * width_)
    return Tiling(height, width, tile, radius, cells, slots, keys, users, offsets)


def _places(index: Tensor, size: int) -> Tensor:
    """Inverse of a gather: (size, M), the places of `index` that hold each number below `size`; len(index) = none."""
    order = torch.argsort(index, stable=True)
    held = index[order]
    counts = torch.bincount(index, minlength=size + 1)[: size + 1]
    rank = torch.arange(len(index)) - (counts.cumsum(0) - counts)[held]
    most = int(counts[:size].max())
    places = torch.full((size + 1, most), len(index))
    real = held < size
    places[held[real], rank[real]] = order[real]
    return places[:size]


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (I,) of values (B, N, D), zeros for the index N: (B, I, D)."""
    return torch.nn.functional.pad(values, (0, 0, 0, 1)).index_select(1, index)


def _gather_sum(values: Tensor, places: Tensor) -> Tensor:
    """Sum over m of the rows places[:, m] of `values` (I, D): (N, D)."""
    if places.shape[1] == 1:
        return values.index_select(0, places[:, 0])
    total: Tensor = torch.nn.functional.embedding_bag(places, values, mode="sum")  # one pass, in the order of m
    return total


def _flat(users: Tensor, batch: int, count: int) -> Tensor:
    """`users` (N, M), places below `count` (count = nowhere), for a batch end to end: (B N, M), B count = nowhere."""
    first = torch.arange(batch, device=users.device)[:, None, None] * count
    return torch.where(users < count, users + first, batch * count).flatten(0, 1)


@functools.lru_cache(maxsize=8)
def _senders(tiling: Tiling, batch: int) -> Tensor:
    """`_flat` of the tiling's users, kept: every layer of every step asks for it again."""
    return _flat(tiling.users, batch, tiling.keys.numel())


class _Take(torch.autograd.Function):
    """Gather of rows whose gradient is a gather as well, not a scatter: many times as fast on a CPU, and always in the
    same order.
    """

    @staticmethod
    def forward(ctx: "torch.autograd.function.FunctionCtx", values: Tensor, index: Tensor, users: Tensor) -> Tensor:
        ctx.save_for_backward(users)
        return _gather(values, index)

    @staticmethod
    def backward(ctx: "torch.autograd.function.FunctionCtx", *grads: Tensor) -> tuple[Tensor, None, None]:
        (users,) = ctx.saved_tensors  # type: ignore[attr-defined]
        batch, count, width = grads[0].shape
        rows = torch.nn.functional.pad(grads[0].reshape(-1, width), (0, 0, 0, 1))
        return _gather_sum(rows, _flat(users, batch, count)).view(batch, -1, width), None, None


def take(values: Tensor, index: Tensor, users: Tensor) -> Tensor:
    """Rows `index` (I,) of values (B, N, D), zeros for the index N: (B, I, D). `users` (N, M) says where each row is
    used (I = nowhere).
    """
    out: Tensor = _Take.apply(values, index, users)
    return out


def tile_attention(
    h: Tensor, beta: Tensor, bias: Tensor, tiling: Tiling, *, values: Tensor | None = None, centred: bool = False
) -> Tensor:
    """One layer: softmax over edges of beta * cos(h_i, h_j) + 10 a_ij, times `values` (B, T t^2, V), or h where None.

    `h` (B, T t^2, D) in slots, `beta` (B,), `bias` of `Tiling.bias`. A pair with a negative cosine is no edge; on
    non-negative `h` that never happens, so it is looked for only if `centred`, which takes the cosine of h minus its
    mean over the image.
    """
    values = h if values is None else values
    if centred:
        return _centred_attention(h, values, beta, bias, tiling)
    out: Tensor = _TileAttention.apply(h, values, beta, bias, tiling)
    return out


class _TileAttention(torch.autograd.Function):
    """The layer with its gradient by hand: the scores, by far the largest tensors, are touched as little as can be.

    With u = h / |h|, s = beta u_q . u_k + bias, P = softmax(s) and out = P v: dL/ds = P (g . v_k - g . out), because
    the softmax's own sum over j of P_ij g_i . v_j is g_i . out_i.
    """

    @staticmethod
    def forward(
        ctx: "torch.autograd.function.FunctionCtx",
        h: Tensor,
        values: Tensor,
        beta: Tensor,
        bias: Tensor,
        tiling: Tiling,
    ) -> Tensor:
        batch, slots, width = h.shape
        inverse = h.square().sum(dim=2, keepdim=True).clamp_(min=1e-12).rsqrt_()
        unit = h * inverse
        index, stack = tiling.keys.flatten(), batch * tiling.tiles
        units = _gather(unit, index).view(stack, -1, width)
        seen = _gather(values, index).view(stack, -1, values.shape[2])
        asked = (unit * beta.view(-1, 1, 1)).view(stack, -1, width)
        scores = torch.baddbmm(bias.view(stack, asked.shape[1], -1), asked, units.transpose(1, 2))
        p = scores.softmax(dim=2)
        out = _product(p, seen, values.new_empty(stack, p.shape[1], seen.shape[2]))
        ctx.save_for_backward(beta, inverse, unit, seen, units, asked, p, out)
        ctx.tiling = tiling  # type: ignore[attr-defined]
        return out.view(batch, slots, -1)

    @staticmethod
    def backward(
        ctx: "torch.autograd.function.FunctionCtx", *grads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        beta, inverse, unit, seen, units, asked, p, out = ctx.saved_tensors  # type: ignore[attr-defined]
        places = _senders(ctx.tiling, len(unit))  # type: ignore[attr-defined]
        g = grads[0].contiguous().view_as(out)
        common = (g * out).sum(dim=2, keepdim=True)
        down = torch.baddbmm(common, g, seen.transpose(1, 2), beta=-1).mul_(p)  # gradient of the scores
        back = torch.bmm(down, units).view_as(unit)  # that of beta u_q
        to_beta = (back * unit).sum(dim=(1, 2))
        to_unit = _summed(down, asked, places).view_as(unit).addcmul_(back, beta.view(-1, 1, 1))
        along = (to_unit * unit).sum(dim=2, keepdim=True)
        to_h = to_unit.addcmul_(unit, along, value=-1).mul_(inverse)
        to_values = _summed(p, g, places).view(len(unit), unit.shape[1], -1)
        return to_h, to_values, to_beta, None, None


def _product(weights: Tensor, values: Tensor, out: Tensor) -> Tensor:
    """weights (B, Q, S) times values (B, S, V), into `out`. With few columns the transposed product is faster."""
    if values.shape[2] >= 16:
        return torch.bmm(weights, values, out=out)
    return out.copy_(torch.bmm(values.transpose(1, 2), weights.transpose(1, 2)).transpose(1, 2))


def _summed(weights: Tensor, queries: Tensor, places: Tensor) -> Tensor:
    """What the queries send to their keys, summed over the tiles that see them: (B T, Q, S) and (B T, Q, D) to
    (B T t^2, D); `places` of `_flat`.
    """
    count, width = weights.shape[0] * weights.shape[2], queries.shape[2]
    sent = queries.new_empty(count + 1, width)
    sent[count] = 0  # the row of those that nobody sees
    _product(weights.transpose(1, 2), queries, out=sent[:count].view(len(weights), -1, width))
    return _gather_sum(sent, places)


def _centred_attention(h: Tensor, values: Tensor, beta: Tensor, bias: Tensor, tiling: Tiling) -> Tensor:
    """The layer whose cosines are those of h minus its mean over the image, and whose negative ones cut edges."""
    batch, _, width = h.shape
    tiles, queries = tiling.tiles, tiling.tile**2
    keys = take(h, tiling.keys.flatten(), tiling.users).view(batch * tiles, -1, width)
    asked = h.reshape(batch * tiles, queries, width)
    real = (tiling.cells < tiling.height * tiling.width).to(h.dtype)[:, None]
    mean = (h * real).sum(dim=1, keepdim=True) / real.sum()
    mean = mean.expand(batch, tiles, width).reshape(batch * tiles, 1, width)
    cosine = _cosine(asked - mean, keys - mean)
    scores = beta.view(-1, 1, 1, 1) * cosine.view(batch, tiles, queries, -1) + bias
    scores = _cut(scores, cosine.view_as(scores), tiling)
    p = scores.softmax(dim=-1).view(batch * tiles, queries, -1)
    seen = take(values, tiling.keys.flatten(), tiling.users).view(batch * tiles, -1, values.shape[2])
    return torch.bmm(p, seen).view(batch, -1, values.shape[2])


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    norm_a = a.square().sum(dim=2, keepdim=True).clamp(min=1e-12).rsqrt()
    norm_b = b.square().sum(dim=2, keepdim=True).clamp(min=1e-12).rsqrt()
    return torch.bmm(a, b.transpose(1, 2)) * norm_a * norm_b.transpose(1, 2)


def _cut(scores: Tensor, cosine: Tensor, tiling: Tiling) -> Tensor:
    """Scores without the edges of negative cosine; a cell keeps the edge to itself."""
    own = tiling.offsets == (2 * tiling.radius + 1) ** 2 // 2
    return scores.masked_fill((cosine < 0) & ~own, OUTSIDE)


def dense_bias(affinity: Tensor) -> Tensor:
    """The scores' constant part as one (B, N, N) matrix, row-major cells: what the tiles must agree with."""
    batch, window, height, width = affinity.shape
    side = int(window**0.5)
    radius = side // 2
    y, x = (v.flatten() for v in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    dy, dx = y[None] - y[:, None], x[None] - x[:, None]
    reach = (dy.abs() <= radius) & (dx.abs() <= radius)
    index = torch.where(reach, (dy + radius) * side + dx + radius, 0).to(affinity.device)
    values = affinity.flatten(2).transpose(1, 2).gather(2, index.expand(batch, -1, -1))
    return torch.where(reach.to(affinity.device) & (values > 0), SHARPNESS * values, OUTSIDE)


def dense_attention(h: Tensor, beta: Tensor, bias: Tensor) -> Tensor:
    """The layer in its dense form: `h` (B, N, D), `bias` (B, N, N)."""
    cosine = _cosine(h, h)
    scores = beta.view(-1, 1, 1) * cosine + bias
    scores = scores.masked_fill(cosine < 0, OUTSIDE)
    return torch.bmm(scores.softmax(dim=-1), h)
