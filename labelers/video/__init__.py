"""Clips with boxes in their first frame to a mask an object and frame, by a trained FTMU agent."""

from maskmill.labelers.video.labeler import VERSION, Config, VideoLabeler, load, stamps

__all__ = ["VERSION", "Config", "VideoLabeler", "load", "stamps"]
