"""Training-free priors: PFENet's plain one, and PI-CLIP's VVP, VTP and PIR."""

from maskmill.trainers.few_shot.priors.clip import ClipPriors, ClipView, resize_nearest
from maskmill.trainers.few_shot.priors.config import PriorConfig
from maskmill.trainers.few_shot.priors.matching import contrast_match, masked_match, plain_prior, product_with_text
from maskmill.trainers.few_shot.priors.pir import diffuse, high_order, refine, transition

__all__ = [
    "ClipPriors",
    "ClipView",
    "PriorConfig",
    "contrast_match",
    "diffuse",
    "high_order",
    "masked_match",
    "plain_prior",
    "product_with_text",
    "refine",
    "resize_nearest",
    "transition",
]
