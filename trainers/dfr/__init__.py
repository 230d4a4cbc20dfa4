"""DFR-style training on scribbles: Zhang, Xiao, Zhao, "Dynamic Feature Regularized Loss for Weakly Supervised Semantic
Segmentation", arXiv 2108.01296. No code was released: head, kernel combination, weights and schedule are a
reconstruction, and every such choice is a setting.
"""

from maskmill.trainers.dfr.config import Config
from maskmill.trainers.dfr.train import VERSION, load, stamps, train

__all__ = ["VERSION", "Config", "load", "stamps", "train"]
