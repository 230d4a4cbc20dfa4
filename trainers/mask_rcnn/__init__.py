"""Class-aware instances: Mask R-CNN on samples whose objects are told apart, measured by COCO's average precision."""

from maskmill.trainers.mask_rcnn.train import MASKS, VERSION, Config, evaluate, load, stamps, train

__all__ = ["MASKS", "VERSION", "Config", "evaluate", "load", "stamps", "train"]
