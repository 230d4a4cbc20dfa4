"""FTMU: clips followed from boxes in their first frame, with a learned policy for matching and for the template."""

from maskmill.trainers.ftmu.config import Config
from maskmill.trainers.ftmu.train import MASKS, VERSION, evaluate, load, look, stamps, train

__all__ = ["MASKS", "VERSION", "Config", "evaluate", "load", "look", "stamps", "train"]
