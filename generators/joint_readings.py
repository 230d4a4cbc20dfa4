"""Maps from the parts of a joint attention: pure functions of tensors of one image (n image tokens)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 1 << 24  # attention weights that are held at a time: 64 MB in float32


def concept_shares(image: Tensor, concepts: Tensor) -> Tensor:
    """ConceptAttention: softmax over concepts of o_x . o_c / |o_c|, in float32.

    Attention outputs of image tokens (n, D) and of concepts (C, D) give (n, C); rows sum to 1.
    """
    directions = F.normalize(concepts.float(), dim=1)
    return torch.softmax(image.float() @ directions.T, dim=1)


def quadrants(
    query: Tensor, key: Tensor, text_key: Tensor, positions: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Image-to-text and image-to-image attention of one block, meaned over heads, in float32.

    `query`, `key` (n, heads, d) of image tokens, `text_key` (m, heads, d). The first result (n, K) is the mean over
    each class's text `positions`, the second (n, n); the softmax runs over all n + m keys.
    """
    tokens, heads, width = query.shape
    keys = torch.cat([key, text_key]).transpose(0, 1).float().transpose(1, 2)  # (heads, d, n + m)
    columns = torch.zeros(text_key.shape[0], len(positions), device=query.device)
    for column, own in enumerate(positions):
        columns[list(own), column] = 1 / max(1, len(own))
    text = torch.empty(tokens, len(positions), device=query.device)
    image = torch.empty(tokens, tokens, device=query.device)
    rows = max(1, CELLS // (heads * keys.shape[2]))
    for start in range(0, tokens, rows):
        part = query[start : start + rows].transpose(0, 1).float()
        seen = torch.softmax(part @ keys * width**-0.5, dim=-1).mean(dim=0)
        image[start : start + rows] = seen[:, :tokens]
        text[start : start + rows] = seen[:, tokens:] @ columns
    return text, image


def graph(image_attention: Tensor, outputs: Tensor) -> Tensor:
    """AnchorDiff (arXiv 2605.26460): similarity of attention outputs (n, D), gated row by row by image-to-image
    attention (n, n); opposite outputs have no edge.
    """
    directions = F.normalize(outputs.float(), dim=1)
    return image_attention * (directions @ directions.T).clamp_min_(0)


def anchored(maps: Tensor) -> Tensor:
    """Each column of (n, K) replaced by its strongest token alone: 1 there, 0 elsewhere; ties go to the first."""
    best = maps == maps.amax(dim=0, keepdim=True)
    first = best & (best.cumsum(dim=0) == 1)
    return first.to(maps.dtype)
