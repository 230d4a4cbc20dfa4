"""WeCLIP: a decoder over a frozen CLIP, trained from image tags by labels that it helps to make."""

from maskmill.trainers.weclip.config import Config
from maskmill.trainers.weclip.train import VERSION, load, look, stamps, train

__all__ = ["VERSION", "Config", "load", "look", "stamps", "train"]
