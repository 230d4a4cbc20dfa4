"""SGM: a support segmented with its own vector, and its object split into what that found and what it missed.

Source: B. Zhang, J. Xiao, T. Qin, "Self-Guided and Cross-Guided Learning for Few-Shot Segmentation" (SCL), CVPR 2021.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maskmill.trainers.few_shot.base import Decoded, PyramidDecoder, masked_mean

InterScale = Literal["initial", "current"]


@dataclass(frozen=True)
class Guide:
    """What a support gives to a query: vectors (B, C, 1, 1); `first` is its own first segmentation (S1)."""

    primary: Tensor
    auxiliary: Tensor
    first: Decoded

    @property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """In the order in which the decoder takes them."""
        return self.primary, self.auxiliary


def split_object(mask: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Covered and missed cells of the object, float: mask and predicted (B, 1, h, w), 1 = object, to the same.

    Both are disjoint, their union is the mask; what was predicted behind the object plays no part. Masks that are not
    binary (sides that do not shrink to exact pixels) count from one half.
    """
    object_, found = mask >= 0.5, predicted >= 0.5
    return (object_ & found).to(mask.dtype), (object_ & ~found).to(mask.dtype)


def guide(decoder: PyramidDecoder, features: Tensor, mask: Tensor) -> Guide:
    """Steps 1 to 4: features (B, C, h, w), mask (B, 1, h, w). No gradient passes through the split (argmax).

    An empty part gives a zero vector.
    """
    own = masked_mean(features, mask)
    first = decoder(features, (own, own), path="support")
    with torch.no_grad():
        covered, missed = split_object(mask, first.logits.argmax(dim=1, keepdim=True))
    return Guide(masked_mean(features, covered), masked_mean(features, missed), first)


def second_look(decoder: PyramidDecoder, features: Tensor, guided: Guide, inter_scale: InterScale) -> Decoded:
    """Step 5, training only: the support segmented with both vectors (S2).

    `initial`: the inter-scale input comes from S1's features, as released; `current`: from this pass's own.
    """
    levels = guided.first.levels if inter_scale == "initial" else None
    decoded: Decoded = decoder(features, guided.vectors, path="support", levels=levels)
    return decoded
