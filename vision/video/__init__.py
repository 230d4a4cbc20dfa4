"""Clips: masks and boxes inside a frame, search regions, DAVIS measures, video files in and out."""

from maskmill.vision.video.files import VideoLimits, count_frames, encode_video, read_frames
from maskmill.vision.video.masks import (
    Binary,
    Boxes,
    MaskCrop,
    box_area,
    box_iou,
    mask_iou,
    resolve_overlaps,
    union_box,
)
from maskmill.vision.video.metrics import (
    ClipScore,
    Summary,
    Void,
    boundary_accuracy,
    region_similarity,
    score_clip,
    summarise,
    summarise_objects,
)
from maskmill.vision.video.region import Motion, Region, RegionConfig, growth, search_region, whole_frame

__all__ = [
    "Binary",
    "Boxes",
    "ClipScore",
    "MaskCrop",
    "Motion",
    "Region",
    "RegionConfig",
    "Summary",
    "VideoLimits",
    "Void",
    "boundary_accuracy",
    "box_area",
    "box_iou",
    "count_frames",
    "encode_video",
    "growth",
    "mask_iou",
    "read_frames",
    "region_similarity",
    "resolve_overlaps",
    "score_clip",
    "search_region",
    "summarise",
    "summarise_objects",
    "union_box",
    "whole_frame",
]
