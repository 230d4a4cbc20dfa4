"""BAM's base learner: a segmenter of the classes that a fold does not hold out, for `few_shot` to build on."""

from maskmill.trainers.few_shot.learner.config import Config
from maskmill.trainers.few_shot.learner.train import VERSION, load, stamps, train

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
