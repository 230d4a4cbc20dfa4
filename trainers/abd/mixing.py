"""Bidirectional copy-paste: one rectangle a step, and pseudo-labels cleaned to their largest blobs.

Source: Y. Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation" (BCP), CVPR 2023.
"""

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from maskmill.data_contracts import Uint8Array


def paste_region(height: int, width: int, rng: np.random.Generator, *, edge: bool = True) -> Tensor:
    """Bool (H, W): false inside a random rectangle of ⌊2H/3⌋ x ⌊2W/3⌋, true outside. Without `edge` it never touches
    the last row and column, as in the release, whose draw leaves out the last place.
    """
    tall, wide = 2 * height // 3, 2 * width // 3
    top, left = int(rng.integers(height - tall + edge)), int(rng.integers(width - wide + edge))
    outside = torch.ones(height, width, dtype=torch.bool)
    outside[top : top + tall, left : left + wide] = False
    return outside


def mix(around: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """`around` where `outside`, `inside` elsewhere."""
    return torch.where(outside, around, inside)


def largest_components(labels: Tensor, background: int = 0) -> Tensor:
    """Labels int64 (B, H, W) with, of each foreground class and image, only its largest 8-connected blob; the first
    of equals in reading order. What is removed becomes background.
    """
    pixels = labels.cpu().numpy().astype(np.uint8)
    cleaned = np.stack([keep_largest(one, background) for one in pixels])
    return torch.from_numpy(cleaned.astype(np.int64)).to(labels.device)


def keep_largest(labels: Uint8Array, background: int = 0) -> Uint8Array:
    """One map uint8 (H, W) with only the largest blob of each foreground class."""
    out = labels.copy()
    for class_id in np.unique(labels):
        if class_id == background or class_id == 255:
            continue
        own = (labels == class_id).astype(np.uint8)
        count, blobs, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        if count > 2:
            largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
            out[(own > 0) & (blobs != largest)] = background
    return out


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """teacher = keep · teacher + (1 - keep) · student over the whole state, running statistics too; counters are
    copied.
    """
    pairs = list(zip(teacher.state_dict().values(), student.state_dict().values(), strict=True))
    real = [(slow, fast) for slow, fast in pairs if slow.is_floating_point()]
    torch._foreach_lerp_([slow for slow, _ in real], [fast for _, fast in real], 1 - keep)
    for slow, fast in pairs:
        if not slow.is_floating_point():
            slow.copy_(fast)
