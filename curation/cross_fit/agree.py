"""How well a mask agrees with what a segmenter of the other folds makes of the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from maskmill.data_contracts import IGNORE, Uint8Array


@dataclass(frozen=True)
class Agreement:
    """`pooled` over the classes of either mask, and by class of the annotation; all between 0 and 1."""

    pooled: float
    per_class: dict[int, float]


def agreement(
    mask: Uint8Array, predicted: Uint8Array, class_ids: Sequence[int], samples: Mapping[int, float], doubt: float
) -> Agreement:
    """Overlap of an annotation with a prediction, both uint8 (H, W).

    The agreement on class c is (n · IoU + doubt) / (n + doubt), n = the `samples` of the other folds that show c: of a
    class that the segmenter has hardly seen it has hardly a say, and n = 0 grants everything. The pooled value weighs
    each class by its union. Classes that are predicted and not annotated count there with IoU 0: something is missing
    from the mask. Pixels that are 255 in the annotation do not count.

    Args:
        class_ids: foreground classes of `mask`.
        samples: by class id; a class that is not in it has 0.

    Raises:
        ValueError: no class, or shapes that differ.
    """
    if not class_ids or mask.shape != predicted.shape:
        found = f"{tuple(class_ids)}, {mask.shape}, {predicted.shape}"
        raise ValueError(f"agreement: expected classes and equal shapes; found {found}")
    pairs = np.bincount(mask.ravel().astype(np.int32) * 256 + predicted.ravel(), minlength=65536).reshape(256, 256)
    pairs = pairs.copy()
    pairs[IGNORE, :] = 0
    foreground = sorted({*class_ids, *(i for i in samples if pairs[:, i].any())})
    unions, agreed = [], {}
    for i in foreground:
        both = int(pairs[i, i])
        union = int(pairs[i, :].sum() + pairs[:, i].sum()) - both
        n = samples.get(i, 0.0)
        say = n / (n + doubt) if n + doubt else 0.0
        agreed[i] = say * (both / max(union, 1)) + 1 - say
        unions.append(union)
    pooled = sum(u * agreed[i] for u, i in zip(unions, foreground, strict=True)) / max(sum(unions), 1)
    return Agreement(pooled, {int(i): agreed[i] for i in class_ids})
