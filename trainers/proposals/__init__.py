"""Class-agnostic instance proposals: a small one-stage segmenter with descriptors that tell objects apart."""

from maskmill.trainers.proposals.train import MASKS, VERSION, Config, load, stamps, train

__all__ = ["MASKS", "VERSION", "Config", "load", "stamps", "train"]
