"""SCL: self-guided vectors, cross-guided weights of K supports, and the losses of both."""

from maskmill.trainers.few_shot.scl.cross import CrossIou, mask_iou, support_scores, weighted_sum
from maskmill.trainers.few_shot.scl.guided import Guide, InterScale, guide, second_look, split_object
from maskmill.trainers.few_shot.scl.losses import cross_entropy, decoded_loss, scl_loss

__all__ = [
    "CrossIou",
    "Guide",
    "InterScale",
    "cross_entropy",
    "decoded_loss",
    "guide",
    "mask_iou",
    "scl_loss",
    "second_look",
    "split_object",
    "support_scores",
    "weighted_sum",
]
