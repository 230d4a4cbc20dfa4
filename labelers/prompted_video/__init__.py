"""Clips with boxes or points in their first frame to a mask an object and frame, by SAM 2, EdgeTAM or SAM 3."""

from maskmill.labelers.prompted_video.config import Config
from maskmill.labelers.prompted_video.labeler import PromptedVideo, load
from maskmill.vision.pretrained import Precision, model_fingerprint

VERSION = 1


def stamps(config: Config) -> tuple[str, ...]:
    """The model's weights and settings."""
    return (model_fingerprint(config.model),)


def models(config: Config) -> list[tuple[str, Precision]]:
    """Folders or hub ids, each with its precision."""
    return [(config.model, config.precision)]


__all__ = ["VERSION", "Config", "PromptedVideo", "load", "models", "stamps"]
