"""Plain supervised training of any segmenter, on true masks or on pseudo-labels."""

from maskmill.trainers.engine import load_segmenter as load
from maskmill.trainers.supervised.train import VERSION, Config, stamps, train

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
