"""ABD: semi-supervised segmentation by two networks, two views and displaced patches; few labelled volumes suffice."""

from maskmill.trainers.abd.config import Config
from maskmill.trainers.abd.train import VERSION, load, stamps, train

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
