"""SGM: a support segmented with its own vector, and its object split into what that found and what it missed.

Source: B. Zhang, J. Xiao, T. Qin, "Self-Guided and Cross-Guided Learning for Few-Shot Segmentation" (SCL), CVPR 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from maskmill.trainers.few_shot.base import Decoded, PyramidDecoder, masked_mean

InterScale = Literal["initial", "current"]
Split = Literal["hard", "soft"]
Decode = Callable[..., Decoded]  # a decoder, or one whose weights stand in for others


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


def soft_split(mask: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The object's cells (B, 1, h, w) weighed by how likely they are found, and missed: logits (B, 2, h, w)."""
    object_, found = (mask >= 0.5).to(logits.dtype), logits.softmax(dim=1)[:, 1:]
    return object_ * found, object_ * (1 - found)


def own_merge_alone(decoder: PyramidDecoder) -> Decode:
    """The decoder for a support's passes, which then teach their own merge alone: all shared weights are detached."""
    weights = {name: p if name.startswith("support_merge.") else p.detach() for name, p in decoder.named_parameters()}

    def decode(*given: Any, **options: Any) -> Decoded:
        decoded: Decoded = functional_call(decoder, weights, given, options)
        return decoded

    return decode


def guide(decoder: Decode, features: Tensor, mask: Tensor, split: Split = "hard") -> Guide:
    """Steps 1 to 4: features (B, C, h, w), mask (B, 1, h, w). No gradient passes through the split (argmax, or the
    probabilities of a soft one).

    An empty part gives a zero vector.
    """
    own = masked_mean(features, mask)
    first = decoder(features, (own, own), path="support")
    with torch.no_grad():
        if split == "soft":
            covered, missed = soft_split(mask, first.logits)
        else:
            covered, missed = split_object(mask, first.logits.argmax(dim=1, keepdim=True))
    return Guide(masked_mean(features, covered), masked_mean(features, missed), first)


def second_look(decoder: Decode, features: Tensor, guided: Guide, inter_scale: InterScale) -> Decoded:
    """Step 5, training only: the support segmented with both vectors (S2).

    `initial`: the inter-scale input comes from S1's features, as released; `current`: from this pass's own.
    """
    levels = guided.first.levels if inter_scale == "initial" else None
    return decoder(features, guided.vectors, path="support", levels=levels)
