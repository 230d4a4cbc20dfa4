"""Boxes from class names: Grounding DINO, MM-Grounding-DINO, OWLv2 and SAM 3 behind one labeler."""

from maskmill.labelers.detect.config import Config
from maskmill.labelers.detect.labeler import Detector, Found, load
from maskmill.vision.pretrained import model_fingerprint

VERSION = 1


def stamps(config: Config) -> tuple[str, ...]:
    """The model's weights, vocabulary and settings."""
    return (model_fingerprint(config.model),)


__all__ = ["VERSION", "Config", "Detector", "Found", "load", "stamps"]
