"""Affinity network: from seeds (labels with 255 where nobody knows) to how alike neighbouring cells of an image are."""

from maskmill.trainers.affinity.model import AffinityNet, ImageGraph
from maskmill.trainers.affinity.predict import AffinityPredictor
from maskmill.trainers.affinity.train import MASKS, VERSION, Config, load, stamps, train

__all__ = ["MASKS", "VERSION", "AffinityNet", "AffinityPredictor", "Config", "ImageGraph", "load", "stamps", "train"]
