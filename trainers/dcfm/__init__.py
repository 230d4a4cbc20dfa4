"""DCFM: the object that a group of images shares, from democratic prototypes, self-contrast and feature enhancement."""

from maskmill.trainers.dcfm.config import Config
from maskmill.trainers.dcfm.train import VERSION, load, stamps, train

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
