"""ASF, the annotation score of SDS: overlap of a sample's mask with the pseudo-mask that CLIP draws for the same
image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array

IgnorePolicy = Literal["authors", "exclude"]


@dataclass(frozen=True)
class AsfScore:
    """Pooled IoU over the annotated classes, IoU of each, and the share of pixels that CLIP left undecided."""

    pooled: float
    per_class: dict[int, float]
    ignore_fraction: float


def pseudo_label(
    probabilities: NDArray[np.float32], class_ids: Sequence[int], background_id: int | None, confidence: float
) -> Uint8Array:
    """Hard label uint8 (H, W) from maps (C, H, W): background first (where the space has one), then `class_ids` in
    order.

    Ties go to the first channel; pixels whose best value is below `confidence` become 255.
    """
    values = [*([] if background_id is None else [background_id]), *class_ids]
    if len(values) != len(probabilities):
        raise ValueError(f"expected one map for each of {values}, found {len(probabilities)} maps")
    label: Uint8Array = np.asarray(values, dtype=np.uint8)[probabilities.argmax(axis=0)]
    label[probabilities.max(axis=0) < confidence] = IGNORE
    return label


def asf_score(
    mask: Uint8Array, pseudo: Uint8Array, class_ids: Sequence[int], ignore: IgnorePolicy = "authors"
) -> AsfScore:
    """Compare annotation and pseudo-mask, both uint8 (H, W), over the classes that the annotation holds.

    pooled = sum_c |S=c and P=c| / sum_c |S=c or P=c|, in one pass over the pixels.

    Args:
        class_ids: foreground classes of `mask`.
        ignore: "authors" keeps 255 as a value that differs from every class, so CLIP's doubt lowers the score;
        "exclude" leaves
            out every pixel that is 255 in either.

    Raises:
        ValueError: no class, or shapes that differ.
    """
    if not class_ids or mask.shape != pseudo.shape:
        raise ValueError(f"asf_score: expected classes, equal shapes; found {class_ids}, {mask.shape}, {pseudo.shape}")
    pairs = np.bincount(mask.ravel().astype(np.int32) * 256 + pseudo.ravel(), minlength=65536).reshape(256, 256)
    undecided = float(pairs[:, IGNORE].sum()) / mask.size
    if ignore == "exclude":
        pairs = pairs.copy()
        pairs[IGNORE, :] = pairs[:, IGNORE] = 0
    ids = np.asarray(class_ids)
    both = pairs[ids, ids]
    either = pairs[ids, :].sum(axis=1) + pairs[:, ids].sum(axis=0) - both
    per_class = {int(i): float(b / max(e, 1)) for i, b, e in zip(ids, both, either, strict=True)}
    return AsfScore(float(both.sum() / max(int(either.sum()), 1)), per_class, undecided)
