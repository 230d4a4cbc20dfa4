"""Energies of soft labels over near pairs, with gradients by hand: O(N C h w) memory beside the kernel's pair stack.

Both count every unordered pair twice (once from each end) and are divided by `norm`.
"""

from typing import Any

import torch
from torch import Tensor

from maskmill.vision.windows.kernels import feature_distances
from maskmill.vision.windows.pairs import Window, all_pairs, blocks, empty_stack


class _Potts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, kernel: Tensor, window: Window, norm: Tensor) -> Tensor:
        p = p.contiguous()
        smoothed = torch.zeros_like(p)  # KP
        mass = p.new_zeros(len(p), *p.shape[2:])
        for block in blocks(len(p), p[0].numel()):
            for position, first, second in all_pairs(window, *p.shape[2:]):
                k = kernel[(block, position, *first)]
                weight = k.unsqueeze(1)
                smoothed[(block, slice(None), *first)].addcmul_(p[(block, slice(None), *second)], weight)
                smoothed[(block, slice(None), *second)].addcmul_(p[(block, slice(None), *first)], weight)
                mass[(block, *first)] += k
                mass[(block, *second)] += k
        ctx.window = window
        ctx.save_for_backward(p, smoothed, norm)
        # Pixel by pixel, so that a constant one-hot map gives exactly 0: both terms add the same numbers in one order.
        return (mass - (p * smoothed).sum(dim=1)).sum() / norm

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        p, smoothed, norm = ctx.saved_tensors
        scale = grads[0] / norm
        to_p = smoothed * (-2 * scale) if ctx.needs_input_grad[0] else None
        to_kernel = _potts_terms(p, ctx.window) * (2 * scale) if ctx.needs_input_grad[1] else None
        return to_p, to_kernel, None, None


def _potts_terms(p: Tensor, window: Window) -> Tensor:
    """1 - P_i . P_j of each pair."""
    out = empty_stack(p, window)
    for position, first, second in all_pairs(window, *p.shape[2:]):
        alike = (p[(slice(None), slice(None), *first)] * p[(slice(None), slice(None), *second)]).sum(dim=1)
        out[(slice(None), position, *first)] = 1 - alike
    return out


class _L1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, kernel: Tensor, window: Window, norm: Tensor) -> Tensor:
        p = p.contiguous()
        pull = torch.zeros_like(p)
        energy = p.new_zeros(())
        for block in blocks(len(p), p[0].numel()):
            for position, first, second in all_pairs(window, *p.shape[2:]):
                weight = kernel[(block, position, *first)].unsqueeze(1)
                gap = p[(block, slice(None), *first)] - p[(block, slice(None), *second)]
                signed = gap.sign().mul_(weight)
                energy += (gap * signed).sum()
                pull[(block, slice(None), *first)] += signed
                pull[(block, slice(None), *second)] -= signed
        ctx.window = window
        ctx.save_for_backward(p, pull, norm)
        return 2 * energy / norm

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        p, pull, norm = ctx.saved_tensors
        scale = 2 * grads[0] / norm
        to_p = pull * scale if ctx.needs_input_grad[0] else None
        to_kernel = _l1_terms(p, ctx.window) * scale if ctx.needs_input_grad[1] else None
        return to_p, to_kernel, None, None


def _l1_terms(p: Tensor, window: Window) -> Tensor:
    """sum over channels of |p_i - p_j| of each pair."""
    return feature_distances(p, window) * p.shape[1]


def potts_energy(p: Tensor, kernel: Tensor, window: Window, norm: Tensor | float) -> Tensor:
    """sum_i sum_{j in window of i} K_ij (1 - P_i . P_j) / norm, a scalar.

    `p` (N, C, h, w), `kernel` a pair stack (N, m, h, w) that holds the validity gates already. The gradient to p is
    -2 K P / norm (Gated CRF); a kernel that requires one gets its gradient too. 0 for a constant one-hot map.
    """
    out: Tensor = _Potts.apply(p, kernel, window, torch.as_tensor(norm, dtype=p.dtype, device=p.device))
    return out


def l1_energy(p: Tensor, kernel: Tensor, window: Window, norm: Tensor | float) -> Tensor:
    """sum_i sum_{j in window of i} K_ij sum_c |p_ic - p_jc| / norm, a scalar; 0 for any constant map.

    With one channel and norm = N h w this is the local saliency coherence of SCWSSOD (Yu et al., AAAI 2021). At ties
    the gradient is 0.
    """
    out: Tensor = _L1.apply(p, kernel, window, torch.as_tensor(norm, dtype=p.dtype, device=p.device))
    return out
