"""Kernels over near pixels as pair stacks (see `pairs`): position, colour and learned features.

Source of the Gaussian kernel: Gated CRF loss (Obukhov et al. 2019); of the feature distance: A2GNN (Zhang et al. 2021).
"""

import math
from typing import Any

import torch
from torch import Tensor

from maskmill.vision.windows.pairs import Window, all_pairs, blocks, empty_stack, half_offsets, partner_values


def spatial_factors(window: Window, sigma: float) -> list[float]:
    """exp(-|x_i - x_j|^2 / (2 sigma^2)) of each offset; `sigma` in pixels of the grid."""
    return [math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma)) for dy, dx in half_offsets(window)]


def spatial_kernel(like: Tensor, window: Window, sigma: float) -> Tensor:
    """Pair stack (1, m, h, w) of the spatial Gaussian for images of the size of `like` (N, C, h, w)."""
    out = empty_stack(like[:1], window)
    factors = spatial_factors(window, sigma)
    for position, first, _ in all_pairs(window, *like.shape[2:]):
        out[(slice(None), position, *first)] = factors[position]
    return out


@torch.no_grad()
def colour_kernel(image: Tensor, window: Window, xy_sigma: float, colour_sigma: float) -> Tensor:
    """K_ij = exp(-|x_i - x_j|^2 / (2 xy_sigma^2) - |I_i - I_j|^2 / (2 colour_sigma^2)), a pair stack (N, m, h, w).

    `image` float (N, C, h, w) is left untouched; `xy_sigma` in grid pixels, `colour_sigma` in the units of `image`.
    Carries no gradient.
    """
    scaled = image.contiguous() / (colour_sigma * math.sqrt(2.0))  # out of place: a kernel must not spoil its input
    out = empty_stack(scaled, window)
    factors = spatial_factors(window, xy_sigma)
    for block in blocks(len(scaled), scaled[0].numel()):
        for position, first, second in all_pairs(window, *scaled.shape[2:]):
            gap = scaled[(block, slice(None), *first)] - scaled[(block, slice(None), *second)]
            distance = gap.square_().sum(dim=1)
            out[(block, position, *first)] = distance.neg_().exp_().mul_(factors[position])
    return out


class _FeatureDistances(torch.autograd.Function):
    """Distances forward, signs recomputed backward: memory is the stack itself, never (N, m, D, h, w)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, window: Window) -> Tensor:
        features = features.contiguous()
        ctx.save_for_backward(features)
        ctx.window = window
        out = empty_stack(features, window)
        for block in blocks(len(features), features[0].numel()):
            for position, first, second in all_pairs(window, *features.shape[2:]):
                gap = features[(block, slice(None), *first)] - features[(block, slice(None), *second)]
                out[(block, position, *first)] = gap.abs_().mean(dim=1)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        grad = grads[0] / features.shape[1]
        out = torch.zeros_like(features)
        for block in blocks(len(features), features[0].numel()):
            for position, first, second in all_pairs(ctx.window, *features.shape[2:]):
                gap = features[(block, slice(None), *first)] - features[(block, slice(None), *second)]
                pull = gap.sign_().mul_(grad[(block, position, *first)].unsqueeze(1))
                out[(block, slice(None), *first)] += pull
                out[(block, slice(None), *second)] -= pull
        return out, None


def feature_distances(features: Tensor, window: Window) -> Tensor:
    """d_ij = mean over channels of |E_i - E_j|, a pair stack (N, m, h, w) with gradients to `features` (N, D, h, w)."""
    out: Tensor = _FeatureDistances.apply(features, window)
    return out


def gate_pairs(kernel: Tensor, valid: Tensor, window: Window) -> Tensor:
    """The pair stack with 0 wherever one of the two pixels is invalid; `valid` (N, h, w) bool."""
    both = valid.unsqueeze(1) & partner_values(valid, window, False)
    return torch.where(both, kernel, torch.zeros((), dtype=kernel.dtype, device=kernel.device))
