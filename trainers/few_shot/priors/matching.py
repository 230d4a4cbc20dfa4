"""Visual priors: how well each query cell matches the supports' object, in frozen features.

Sources: PFENet (Tian et al., TPAMI 2020) for the plain prior; PI-CLIP (Wang et al., CVPR 2024) for VVP. The contrast
with the support's background and the centring are ours.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-7
TEXT_FLOOR = 1e-3  # what no text speaks for still counts a little


def masked_match(query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """Best cosine of each query cell among the masked support's cells: (C, n), (C, m), mask (m,) to (n,).

    max_y <q_x, m_y s_y> / (|q_x| |m_y s_y| + 1e-7): a cell outside the mask contributes 0, as published, so the result
    is not negative once the mask leaves out a single cell.
    """
    masked = support * mask
    norms = query.norm(dim=0)[:, None] * masked.norm(dim=0)[None]
    best: Tensor = ((query.T @ masked) / (norms + EPSILON)).amax(dim=1)
    return best


def plain_prior(query: Tensor, supports: list[tuple[Tensor, Tensor]]) -> Tensor:
    """PFENet's prior in [0, 1]: `query` (C, h, w); `supports` as (features (C, h', w'), mask (h', w')) each.

    Each support's map is stretched to [0, 1] by itself; then their mean.
    """
    maps = [_stretch(masked_match(query.flatten(1), s.flatten(1), m.flatten())) for s, m in supports]
    return torch.stack(maps).mean(dim=0).view(query.shape[1:])


def product_with_text(product: Tensor, text: Tensor) -> Tensor:
    """Maps (P, h, w) times the root of a text's map (h, w), each map from 0 to 1 before: where the example and the
    text agree.
    """
    each = torch.stack([_stretch(one) for one in product])
    return each * (_stretch(text) + TEXT_FLOOR).sqrt()


def _stretch(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low + EPSILON)


def contrast_match(
    query: Tensor, support: Tensor, share: Tensor, *, centre: bool, neighbours: int, temperature: float
) -> Tensor:
    """Does a query cell match the support's object better than what lies behind it? (C, n), (C, m), (m,) to (n,).

    `share` is how much of each support cell is object. The mean cosine to the `neighbours` best cells of the object
    (share >= 0.5, or the one with the most where none has half) against the same for the background (share <= 0.1),
    as a softmax of the two over `temperature`: in [0, 1], 0.5 = undecided. 0 where the support shows no object.
    """
    if share.max() <= 0:
        return query.new_zeros(query.shape[1])
    if centre:
        mean = support.mean(dim=1, keepdim=True)
        query, support = query - mean, support - mean
    cosine = F.normalize(query, dim=0).T @ F.normalize(support, dim=0)
    inside = share >= min(0.5, float(share.max()))
    front = _best(cosine[:, inside], neighbours)
    behind = share <= 0.1
    if not behind.any():
        return (front + 1) / 2
    return ((front - _best(cosine[:, behind], neighbours)) / temperature).sigmoid()


def _best(cosine: Tensor, neighbours: int) -> Tensor:
    best: Tensor = cosine.topk(min(neighbours, cosine.shape[1]), dim=1).values.mean(dim=1)
    return best
