"""DFR-style training on scribbles: Zhang, Xiao, Zhao, "Dynamic Feature Regularized Loss for Weakly Supervised Semantic
Segmentation", arXiv 2108.01296. No code was released: head, kernel combination, weights and schedule are a
reconstruction, and every such choice is a setting.
"""

from maskmill.trainers.dfr.config import Config
from maskmill.trainers.dfr.train import VERSION, stamps, train
from maskmill.trainers.engine import load_segmenter as load

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
