"""PIR: a class map diffused along a high-order matrix of CLIP's attention, from sources inside its boxes.

Source: PI-CLIP, CVPR 2024, after CLIP-ES, CVPR 2023, which averages D and its transpose instead.
"""

import torch
from torch import Tensor

from maskmill.vision.clip import box_masks, min_max

EPSILON = 1e-12


def transition(attention: Tensor) -> Tensor:
    """Attention (n, n) to D: columns to sum 1, then rows to sum 1, once."""
    d = attention / attention.sum(dim=0, keepdim=True).clamp_min(EPSILON)
    return d / d.sum(dim=1, keepdim=True).clamp_min(EPSILON)


def high_order(attention: Tensor) -> Tensor:
    """R = max(D, D D^T) squared, (n, n): n is h*w of the patch grid."""
    d = transition(attention)
    r = torch.maximum(d, d @ d.T)
    return r @ r


def diffuse(matrix: Tensor, cam: Tensor, boxes: Tensor) -> Tensor:
    """(R * m over columns) cam, stretched to [0, 1]: R (n, n), cam and boxes (h, w).

    Only cells inside the boxes give; any cell may receive. Without a box the result is zero.
    """
    spread = (matrix * boxes.flatten()[None]) @ cam.flatten()
    return min_max(spread.view(1, *cam.shape))[0]


def refine(attention: Tensor, cam: Tensor, *, box_threshold: float, edge_fix: bool, box_peak: int = 255) -> Tensor:
    """VTP with PIR: attention (n, n), mean over heads and blocks, patch part; cam (h, w) in [0, 1] to (h, w).
    `box_peak`: what 1 becomes in the 8 bits that boxes are found in.
    """
    if cam.max() <= 0:  # no evidence for the class: no prior, not an error
        return torch.zeros_like(cam)
    boxes = box_masks(cam.clamp(max=(box_peak + 0.5) / 255)[None], box_threshold, edge_fix)[0]
    return diffuse(high_order(attention), cam, boxes)
