"""Few-shot segmentation: PFENet- and HDMNet-like networks over frozen features, with the priors of PI-CLIP and SCL."""

from maskmill.trainers.few_shot.config import Config
from maskmill.trainers.few_shot.train import MASKS, VERSION, evaluate, load, look, stamps, train

__all__ = ["MASKS", "VERSION", "Config", "evaluate", "load", "look", "stamps", "train"]
