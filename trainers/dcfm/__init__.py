"""DCFM: the object that a group of images shares, from democratic prototypes, self-contrast and feature enhancement."""

from maskmill.trainers.dcfm.config import Config
from maskmill.trainers.dcfm.train import VERSION, evaluate, load, stamps, train

__all__ = ["VERSION", "Config", "evaluate", "load", "stamps", "train"]
