"""FTMU: clips followed from boxes in their first frame, with a learned policy for matching and for the template."""

from maskmill.trainers.ftmu.config import Config
from maskmill.trainers.ftmu.train import VERSION, load, stamps, train

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
