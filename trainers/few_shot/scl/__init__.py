"""SCL: self-guided vectors, cross-guided weights of K supports, and the losses of both."""

from maskmill.trainers.few_shot.scl.cross import CrossIou, mask_iou, support_scores, weighted_sum
from maskmill.trainers.few_shot.scl.guided import (
    Guide,
    InterScale,
    Split,
    guide,
    own_merge_alone,
    second_look,
    soft_split,
    split_object,
)
from maskmill.trainers.few_shot.scl.losses import cross_entropy, decoded_loss, scl_loss

__all__ = [
    "CrossIou",
    "Guide",
    "InterScale",
    "Split",
    "cross_entropy",
    "decoded_loss",
    "guide",
    "mask_iou",
    "own_merge_alone",
    "scl_loss",
    "second_look",
    "soft_split",
    "split_object",
    "support_scores",
    "weighted_sum",
]
