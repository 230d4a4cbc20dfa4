"""A fixed number of crops of each image, encoded once: for small sets, where the frozen encoder would see the same
pixels over and over. The labels are still made online from the stored features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maskmill.trainers.weclip.model import Weclip
from maskmill.vision.clip import DenseFeatures


@dataclass(frozen=True)
class Stored:
    """Features of one crop: `tokens` bf16 (levels, L, D), `attention` fp16 (m, n, n)."""

    tokens: Tensor
    attention: Tensor
    grid: tuple[int, int]
    prefix: int


@dataclass(frozen=True)
class ViewStore:
    """Frozen features of crops by (sample, view), made at the first visit, one crop at a time, so that they depend
    neither on companions nor on whether the run was cut off. They stay in memory: levels x L x D x 2 bytes a crop and
    m x n x n x 2 bytes for its attention (0.4 MB for the starter CLIP at 192 pixels, 11 MB for ViT-B/16 at 320).
    """

    model: Weclip
    n_attention: int
    kept: dict[tuple[str, int], Stored] = field(default_factory=dict)

    def __call__(self, images: Tensor, ids: Sequence[str], views: Sequence[int]) -> DenseFeatures:
        """What `Weclip.encode` gives for normalised crops (B, 3, H, W), rounded to half precision."""
        keys = list(zip(ids, views, strict=True))
        for place, key in enumerate(keys):
            if key not in self.kept:
                self.kept[key] = self._encode(images[place : place + 1])
        found = [self.kept[key] for key in keys]
        levels = torch.stack([one.tokens for one in found], dim=1).float().unbind()
        attention = torch.stack([one.attention for one in found], dim=1).float().unbind()
        return DenseFeatures(levels[-1], None, found[0].grid, found[0].prefix, tuple(levels), tuple(attention))

    def _encode(self, image: Tensor) -> Stored:
        dense = self.model.encode(image, self.n_attention)
        n = dense.grid[0] * dense.grid[1]
        maps = torch.cat(dense.block_attention) if self.n_attention else image.new_zeros(0, n, n)
        tokens = torch.cat(dense.block_outputs or (dense.last_input,))
        return Stored(tokens.bfloat16(), maps.half(), dense.grid, dense.prefix)
