"""Instance segmenters behind one interface: a small class-agnostic one of our own, and torchvision's Mask R-CNN."""

from maskmill.vision.instances.base import Detections, InstanceSegmenter, unit
from maskmill.vision.instances.mask_rcnn import MASK_RCNNS, ZOOM, MaskRcnn, load_mask_rcnn
from maskmill.vision.instances.net import (
    CELL,
    GRAIN,
    ProposalConfig,
    ProposalNet,
    Proposals,
    cell_centres,
    pool,
    shrink,
)
from maskmill.vision.instances.proposals import DetectConfig, ProposalSegmenter, decode

__all__ = [
    "CELL",
    "GRAIN",
    "MASK_RCNNS",
    "ZOOM",
    "DetectConfig",
    "Detections",
    "InstanceSegmenter",
    "MaskRcnn",
    "ProposalConfig",
    "ProposalNet",
    "ProposalSegmenter",
    "Proposals",
    "cell_centres",
    "decode",
    "load_mask_rcnn",
    "pool",
    "shrink",
    "unit",
]
