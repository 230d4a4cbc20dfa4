"""Plain supervised training of any segmenter, on true masks or on pseudo-labels."""

from maskmill.trainers.supervised.train import VERSION, Config, load, stamps, train

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
