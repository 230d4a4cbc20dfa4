"""An HDMNet-like decoder: self-attention within each image, then matching by cosine cross-attention, coarse to fine.

Source: B. Peng et al., "Hierarchical Dense Correlation Distillation for Few-Shot Segmentation" (HDMNet), CVPR 2023, in
the layout that PI-CLIP (CVPR 2024) feeds with its priors. Without BAM's base learner, which needs a segmenter of the
base classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.few_shot.base.parts import Decoded, conv, resize

HEADS = (2, 4, 8)
PRIOR_GAIN = 10.0  # of the priors in the query's merge
MATCH_HEADS = 2
TEMPERATURE = 0.1
BLANK = -1e9


class SelfAttention(nn.Module):
    """Pre-norm attention and MLP over the cells of a map (B, width, h, w)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = x.flatten(2).transpose(1, 2)
        z = self.norm1(tokens)
        tokens = tokens + self.attention(z, z, z, need_weights=False)[0]
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).reshape(x.shape)


class Matching(nn.Module):
    """Cosine cross-attention: each support cell of the object is spread over the query cells that are like it.

    The softmax runs over the query, and the support's background is zeroed, so that a query cell that no object cell
    chooses receives nothing.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, query: Tensor, support: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w), (B, C, K*h, w) and mask (B, 1, K*h, w) to features (B, C, h, w), correlation (B, h, w)."""
        batch, width, height, columns = query.shape
        q, k, v = (_heads(x) for x in (self.query(query), self.key(support), self.value(support)))
        cosine = F.normalize(q, dim=2).transpose(2, 3) @ F.normalize(k, dim=2)  # (B, H, Nq, Ns)
        weights = mask.flatten(1)[:, None, None]
        attention = (cosine / TEMPERATURE).softmax(dim=2) * weights
        matched = (attention @ v.transpose(2, 3)).transpose(2, 3).reshape(batch, width, height, columns)
        correlation = (cosine * weights).sum(dim=3) / (weights.sum(dim=3) + 1e-7)
        return matched, correlation.mean(dim=1).view(batch, height, columns)


def _heads(x: Tensor) -> Tensor:
    return x.flatten(2).view(x.shape[0], MATCH_HEADS, x.shape[1] // MATCH_HEADS, -1)


class MatchingDecoder(nn.Module):
    """Query and support features (B, channels, h, w), their prototype and priors to logits (B, 2, h, w).

    Merges: query [features, prototype, 10 x priors], support [features, prototype], both to `width`. Three stages of
    two attention layers at h, h/2, h/4; matching at each, with the priors beside the matched features; residual heads,
    coarse to fine.
    """

    def __init__(self, channels: int, priors: int, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.query_merge = conv(2 * channels + priors, width, 1)
        self.support_merge = conv(2 * channels, width, 1)
        self.embeds = nn.ModuleList(
            nn.Conv2d(width, width, size, stride, padding=size // 2) for size, stride in ((1, 1), (3, 2), (3, 2))
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(SelfAttention(width, heads, dropout) for _ in range(2))) for heads in HEADS
        )
        self.matching = nn.ModuleList(Matching(width) for _ in HEADS)
        self.mix = nn.ModuleList(conv(width + priors, width) for _ in HEADS)
        self.parse = nn.ModuleList(nn.Sequential(conv(width, width), conv(width, width)) for _ in HEADS)
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, 2, 1))

    def forward(
        self, query: Tensor, supports: Sequence[Tensor], masks: Sequence[Tensor], prototype: Tensor, priors: Tensor
    ) -> Decoded:
        """`supports` and `masks` (B, C, h, w), (B, 1, h, w) for each shot; `priors` (B, P, h, w), P may be 0."""
        grid = (query.shape[2], query.shape[3])
        tiled = prototype.expand(-1, -1, *grid)
        q_levels = self._encode(self.query_merge(torch.cat([query, tiled, PRIOR_GAIN * priors], dim=1)))
        s_levels = [self._encode(self.support_merge(torch.cat([s, tiled], dim=1))) for s in supports]
        out: Tensor | None = None
        correlations = []
        for stage in reversed(range(len(HEADS))):
            level = q_levels[stage]
            cells = (level.shape[2], level.shape[3])
            support = torch.cat([levels[stage] for levels in s_levels], dim=2)
            mask = torch.cat([resize(m, cells) for m in masks], dim=2)
            matched, correlation = self.matching[stage](level, support, mask)
            x = self.mix[stage](torch.cat([matched + level, resize(priors, cells)], dim=1))
            x = x if out is None else x + resize(out, cells)
            out = self.parse[stage](x) + x
            correlations.append(correlation)
        if out is None:
            raise ValueError("decoder: expected at least one stage")
        return Decoded(self.head(out), correlations=tuple(correlations))

    def _encode(self, x: Tensor) -> list[Tensor]:
        levels = []
        for embed, stage in zip(self.embeds, self.stages, strict=True):
            x = stage(embed(x))
            levels.append(x)
        return levels


def distillation_loss(correlations: Sequence[Tensor], target: Tensor) -> Tensor:
    """HDMNet's chain of teachers: correlations (B, h, w), coarse to fine; target (B, H, W) of 0, 1, 255.

    The true object as a spatial softmax teaches the coarsest map; each map, detached, teaches the next finer one.
    KL over positions, mean over the batch, mean over the maps.
    """
    truth = (target == 1).float()[:, None]
    teacher = _spatial(resize(truth, _grid(correlations[0])) >= 0.5, correlations[0])
    losses = []
    for number, student in enumerate(correlations):
        log_student = (student / TEMPERATURE).flatten(1).log_softmax(dim=1)
        losses.append((teacher * (teacher.clamp_min(1e-12).log() - log_student)).sum(dim=1).mean())
        if number + 1 < len(correlations):
            finer = resize(student.detach()[:, None], _grid(correlations[number + 1]))
            teacher = (finer / TEMPERATURE).flatten(1).softmax(dim=1)
    return torch.stack(losses).mean()


def _spatial(object_: Tensor, like: Tensor) -> Tensor:
    flat = object_.flatten(1)
    return torch.zeros_like(like).flatten(1).masked_fill(~flat, BLANK).softmax(dim=1)


def _grid(maps: Tensor) -> tuple[int, int]:
    return maps.shape[1], maps.shape[2]
