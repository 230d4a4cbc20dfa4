"""A PFENet-like decoder: the query enriched by a prototype at several scales, information flowing from fine to coarse.

Source: Z. Tian et al., "Prior Guided Feature Enrichment Network for Few-Shot Segmentation", TPAMI 2020. With two slots
and a support path it is the decoder of SCL: B. Zhang et al., CVPR 2021.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.trainers.few_shot.base.parts import Decoded, Grid, classifier, conv, resize

Path = Literal["query", "support"]


class PyramidDecoder(nn.Module):
    """Features (B, width, h, w), `slots` vectors (B, width, 1, 1) and priors (B, priors, h, w) to logits (B, 2, h, w).

    `scales` are bins (whole numbers above 1: that many cells a side) or shares of the grid (up to 1). Each path has its
    own merge: the query's takes the priors, the support's none. All after the merge is shared by both. With
    `through_grid` a level is enlarged to the whole grid before the next, coarser one takes it over, as released.
    """

    def __init__(
        self,
        width: int,
        slots: int,
        priors: int,
        scales: Sequence[float],
        *,
        support_path: bool = False,
        dropout: float = 0.1,
        prior_gain: float = 1.0,
        through_grid: bool = False,
    ) -> None:
        super().__init__()
        self.prior_gain, self.through_grid = prior_gain, through_grid
        self.width, self.slots, self.scales = width, slots, tuple(scales)
        merged = (1 + slots) * width
        self.query_merge = nn.ModuleList(conv(merged + priors, width, 1) for _ in scales)
        self.support_merge = nn.ModuleList(conv(merged, width, 1) for _ in scales if support_path)
        self.inter_scale = nn.ModuleList(conv(2 * width, width, 1) for _ in scales[1:])
        self.blocks = nn.ModuleList(nn.Sequential(conv(width, width), conv(width, width)) for _ in scales)
        self.inner = nn.ModuleList(classifier(width, dropout) for _ in scales)
        self.gather = conv(width * len(scales), width, 1)
        self.last = nn.Sequential(conv(width, width), conv(width, width))
        self.head = classifier(width, dropout)

    def forward(
        self,
        features: Tensor,
        vectors: Sequence[Tensor],
        priors: Tensor | None = None,
        *,
        path: Path = "query",
        levels: Sequence[Tensor] | None = None,
    ) -> Decoded:
        """Decode. `levels` of an earlier pass take the place of this pass's own finer features (the release of SCL
        does so in its second support pass and in cross predictions).

        Raises:
            ValueError: another number of vectors than slots.
        """
        if len(vectors) != self.slots:
            raise ValueError(f"decoder: expected {self.slots} vectors, found {len(vectors)}")
        merges = self.query_merge if path == "query" else self.support_merge
        grid = (features.shape[2], features.shape[3])
        found: list[Tensor] = []
        inner = []
        for number, scale in enumerate(self.scales):
            bin_ = _cells(grid, scale)
            parts = [F.adaptive_avg_pool2d(features, bin_)]
            parts += [v.expand(-1, -1, *bin_) for v in vectors]
            if path == "query" and priors is not None:
                parts.append(self.prior_gain * resize(priors, bin_))
            x = merges[number](torch.cat(parts, dim=1))
            if number > 0:
                finer = (found if levels is None else levels)[number - 1]
                x = self.inter_scale[number - 1](torch.cat([x, resize(finer, bin_)], dim=1)) + x
            x = self.blocks[number](x) + x
            inner.append(self.inner[number](x))
            found.append(resize(x, grid) if self.through_grid else x)
        x = self.gather(torch.cat([resize(level, grid) for level in found], dim=1))
        x = self.last(x) + x
        return Decoded(self.head(x), tuple(inner), tuple(found))


def _cells(grid: Grid, scale: float) -> Grid:
    if scale > 1:
        return int(scale), int(scale)
    return max(1, round(grid[0] * scale)), max(1, round(grid[1] * scale))
