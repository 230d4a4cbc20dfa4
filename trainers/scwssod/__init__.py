"""Saliency from scribbles: Yu et al., "Structure-Consistent Weakly Supervised Salient Object Detection with Local
Saliency Coherence", AAAI 2021, with the faults of its release mended; `preset: faithful` keeps what it does.
"""

from maskmill.trainers.scwssod.config import Config
from maskmill.trainers.scwssod.train import VERSION, evaluate, load, stamps, train

__all__ = ["VERSION", "Config", "evaluate", "load", "stamps", "train"]
