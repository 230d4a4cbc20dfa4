"""Boxes from class names: Grounding DINO, MM-Grounding-DINO, OWLv2 and SAM 3 behind one labeler."""

from maskmill.labelers.detect.config import Config
from maskmill.labelers.detect.labeler import Detector, Found, load
from maskmill.vision.pretrained import Precision, model_fingerprint

VERSION = 1


def stamps(config: Config) -> tuple[str, ...]:
    """The model's weights, vocabulary and settings."""
    return (model_fingerprint(config.model),)


def models(config: Config) -> list[tuple[str, Precision]]:
    """Folders or hub ids, each with its precision."""
    return [(config.model, config.precision)]


__all__ = ["VERSION", "Config", "Detector", "Found", "load", "models", "stamps"]
