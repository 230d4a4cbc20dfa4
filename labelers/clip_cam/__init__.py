"""Training-free masks from image tags: CLIP's class maps, spread by its attention and refined along colour edges."""

from maskmill.labelers.clip_cam.config import Config
from maskmill.labelers.clip_cam.labeler import ClipCam, load
from maskmill.vision.clip import clip_fingerprint

VERSION = 2


def stamps(config: Config) -> tuple[str, ...]:
    """The model's weights."""
    return (clip_fingerprint(config.model, config.pretrained, config.precision),)


__all__ = ["VERSION", "ClipCam", "Config", "load", "stamps"]
