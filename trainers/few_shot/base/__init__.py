"""Base networks: decoders in the manner of PFENet and of HDMNet, over any frozen encoder, and BAM's ensemble."""

from maskmill.trainers.few_shot.base.ensemble import Ensemble, GramShots, PyramidHead, gram_distance
from maskmill.trainers.few_shot.base.hdmnet import MatchingDecoder, distillation_loss
from maskmill.trainers.few_shot.base.hdmnet_released import HdmnetDecoder, released_distillation
from maskmill.trainers.few_shot.base.parts import Decoded, masked_mean, resize
from maskmill.trainers.few_shot.base.pfenet import PyramidDecoder

__all__ = [
    "Decoded",
    "Ensemble",
    "GramShots",
    "HdmnetDecoder",
    "MatchingDecoder",
    "PyramidDecoder",
    "PyramidHead",
    "distillation_loss",
    "gram_distance",
    "masked_mean",
    "released_distillation",
    "resize",
]
