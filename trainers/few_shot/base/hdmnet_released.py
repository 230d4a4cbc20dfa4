"""HDMNet's decoder as PI-CLIP's release has it: mix transformers of three scales, matching, heads from coarse to fine.

Source: B. Peng et al., "Hierarchical Dense Correlation Distillation for Few-Shot Segmentation" (HDMNet), CVPR 2023, in
the layout of PI-CLIP (CVPR 2024). Tokens are (B, cells, C) row by row. Batch norms stay as they are stored, in training
too, as the release fixes them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.few_shot.base.parts import Decoded, Grid, conv, masked_mean, resize

HEADS = (2, 4, 8)
PATCHES = ((1, 1), (3, 2), (3, 2))  # kernel and stride of each stage's embedding
REDUCTIONS = (4, 2, 1)  # of keys and values
MATCH_HEADS = 2
TEMPERATURE = 0.1
PRIOR_GAIN = 10.0  # of the priors in the query's merge
BLANK = -1e9
EPSILON = 1e-9


def norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def to_map(tokens: Tensor, grid: Grid) -> Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)


def to_tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention, keys and values on a grid that is coarser by `reduction`; or matching by cosine: its softmax runs
    over the query, and the support's background is zeroed.
    """

    def __init__(self, width: int, heads: int, reduction: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = norm(width) if reduction > 1 else None
        self.dropout = nn.Dropout(dropout)

    def attend(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, n, C) to the same."""
        source = x
        if self.reduce is not None and self.norm is not None:
            source = self.norm(to_tokens(self.reduce(to_map(x, grid))))
        q, k, v = self._apart(self.query(x)), self._apart(self.key(source)), self._apart(self.value(source))
        shares = (q @ k.transpose(2, 3) / (math.sqrt(q.shape[-1]) + EPSILON)).softmax(dim=-1)
        return self._together(shares @ v)

    def match(self, x: Tensor, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, C), (B, m, C) and mask (B, m) of 0 and 1: what the object gives (B, n, C), correlation (B, n)."""
        q, k, v = self._apart(self.query(x)), self._apart(self.key(source)), self._apart(self.value(source))
        cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(2, 3) / TEMPERATURE
        object_ = mask[:, None, None]
        shares = cosine.softmax(dim=-2).masked_fill(object_ == 0, 0)
        correlation = (cosine * object_).sum(dim=-1) / (object_.sum(dim=-1) + EPSILON)
        return self._together(shares @ v), correlation.mean(dim=1)

    def _apart(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def _together(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.out(x.transpose(1, 2).flatten(2)))
        return out


class Layer(nn.Module):
    """Pre-norm attention, then a two-layer network of 4 x width with a depthwise 3x3 convolution inside."""

    def __init__(self, width: int, heads: int, reduction: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = Attention(width, heads, reduction, dropout)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(4 * width, width, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self._spread(x + self.attention.attend(self.norm1(x), grid), grid)

    def match(self, x: Tensor, source: Tensor, mask: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        found, correlation = self.attention.match(self.norm1(x), self.norm1(source), mask)
        return self._spread(x + found, grid), correlation

    def _spread(self, x: Tensor, grid: Grid) -> Tensor:
        return x + to_tokens(self.mlp(to_map(self.norm2(x), grid)))


def bottleneck(width: int, outputs: int) -> nn.Sequential:
    """1x1, 3x3, 1x1 convolutions over 4 x width, batch norms between."""
    wide = 4 * width
    inner = [nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.Conv2d(wide, wide, 3, padding=1), nn.BatchNorm2d(wide)]
    return nn.Sequential(*inner, nn.Conv2d(wide, outputs, 1))


class HdmnetDecoder(nn.Module):
    """Query and support features (B, channels, h, w), their prototype and priors to logits (B, 2, h, w)."""

    def __init__(self, channels: int, priors: int, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.query_merge = conv(2 * channels + priors, width, 1)
        self.support_merge = conv(2 * channels, width, 1)
        self.embeds = nn.ModuleList(nn.Conv2d(width, width, k, s, padding=s // 2) for k, s in PATCHES)
        self.embed_norms = nn.ModuleList(norm(width) for _ in PATCHES)
        self.stages = nn.ModuleList(
            nn.ModuleList(Layer(width, heads, reduction, dropout) for _ in range(2))
            for heads, reduction in zip(HEADS, REDUCTIONS, strict=True)
        )
        self.norms = nn.ModuleList(norm(width) for _ in PATCHES)
        self.matching = nn.ModuleList(Layer(width, MATCH_HEADS, 1, dropout) for _ in PATCHES)
        self.mix = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width + priors, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
            )
            for _ in PATCHES
        )
        self.parse = nn.ModuleList(
            nn.Sequential(*bottleneck(width, width), nn.BatchNorm2d(width), nn.ReLU()) for _ in PATCHES
        )
        self.head = bottleneck(width, 2)

    def train(self, mode: bool = True) -> "HdmnetDecoder":
        """As any module's, but batch norms stay in evaluation."""
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self

    def forward(
        self,
        query: Tensor,
        supports: Sequence[Tensor],
        masks: Sequence[Tensor],
        prototype: Tensor,
        priors: Tensor,
        canvases: Sequence[Tensor] | None = None,
    ) -> Decoded:
        """`supports` and `masks` (B, C, h, w), (B, 1, h, w) for each shot; `priors` (B, P, h, w), P may be 0.
        `canvases` (B, 1, H, W): masks that the stages take by nearest neighbour, in place of `masks`.
        """
        grid = (query.shape[2], query.shape[3])
        tiled = prototype.expand(-1, -1, *grid)
        merged = self.query_merge(torch.cat([query, tiled, PRIOR_GAIN * priors], dim=1))
        own = [masked_mean(s, m).expand_as(s) for s, m in zip(supports, masks, strict=True)]
        shown = [self.support_merge(torch.cat([s, mean], dim=1)) for s, mean in zip(supports, own, strict=True)]
        return self.match(merged, shown, masks if canvases is None else canvases, priors)

    def match(self, merged: Tensor, shown: Sequence[Tensor], masks: Sequence[Tensor], priors: Tensor) -> Decoded:
        """From the merges on: (B, width, h, w) of the query and of each shot."""
        queries, grids = self._encode(merged)
        examples = [self._encode(s)[0] for s in shown]
        out: Tensor | None = None
        correlations = []
        for stage in reversed(range(len(PATCHES))):
            grid = grids[stage]
            source = torch.cat([levels[stage] for levels in examples], dim=1)
            object_ = torch.cat([F.interpolate(m, grid, mode="nearest").flatten(1) for m in masks], dim=1)
            layer = self.matching[stage]
            assert isinstance(layer, Layer)
            tokens, correlation = layer.match(queries[stage], source, object_, grid)
            x = self.mix[stage](torch.cat([to_map(tokens, grid), resize(priors, grid)], dim=1))
            if out is None:
                out = self.parse[stage](x)
            else:
                out = F.interpolate(out, grid, mode="bilinear", align_corners=False)
                out = out + self.parse[stage](x + out)
            correlations.append(correlation.view(-1, *grid))
        return Decoded(self.head(out), correlations=tuple(correlations))

    def _encode(self, x: Tensor) -> tuple[list[Tensor], list[Grid]]:
        """Tokens of three scales, and their grids, fine to coarse."""
        levels, grids = [], []
        for embed, first, layers, last in zip(self.embeds, self.embed_norms, self.stages, self.norms, strict=True):
            x = embed(x)
            grid = (x.shape[2], x.shape[3])
            tokens = first(to_tokens(x))
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                tokens = layer(tokens, grid)
            tokens = last(tokens)
            levels.append(tokens)
            grids.append(grid)
            x = to_map(tokens, grid)
        return levels, grids


def released_distillation(correlations: Sequence[Tensor], target: Tensor) -> Tensor:
    """The chain of teachers as released: correlations (B, h, w), coarse to fine; target (B, H, W) of 0, 1, 255.

    A map of 1 on the object and -1e9 elsewhere teaches the coarsest; each, detached, teaches the next finer one. A
    teacher is brought to its pupil's grid bilinearly before the softmax. KL over positions, mean over batch and maps.
    """
    teacher = (target == 1).float()
    teacher = teacher.masked_fill(teacher == 0, BLANK)
    losses = []
    for student in correlations:
        if teacher.shape != student.shape:
            size = (student.shape[1], student.shape[2])
            teacher = F.interpolate(teacher[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        t, s = teacher.flatten(1).softmax(dim=1), student.flatten(1).softmax(dim=1)
        losses.append((t * (t + 1e-12).log() - t * (s + 1e-12).log()).sum(dim=1).mean())
        teacher = student.detach()
    return torch.stack(losses).mean()
