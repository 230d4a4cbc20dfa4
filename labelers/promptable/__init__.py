"""Masks by a model that is prompted: SAM and its kin, from boxes, points, scribbles, detections or image tags."""

from maskmill.labelers.detect import models as detector_models
from maskmill.labelers.detect import stamps as detector_stamps
from maskmill.labelers.promptable.config import Config
from maskmill.labelers.promptable.labeler import Promptable, load
from maskmill.vision.clip import clip_fingerprint
from maskmill.vision.crf_options import crf_stamp
from maskmill.vision.pretrained import Precision, model_fingerprint

VERSION = 2


def stamps(config: Config) -> tuple[str, ...]:
    """The weights of the model, and of whoever finds prompts where there are none; which CRF."""
    crf = () if config.crf is None else crf_stamp(config.crf)
    if config.detector is not None:
        return (model_fingerprint(config.model), *detector_stamps(config.detector), *crf)
    if config.tags == "none":
        return (model_fingerprint(config.model), *crf)
    cam = config.cam
    return (model_fingerprint(config.model), clip_fingerprint(cam.model, cam.pretrained, cam.precision), *crf)


def models(config: Config) -> list[tuple[str, Precision]]:
    """Folders or hub ids, each with its precision."""
    return [(config.model, config.precision)] + ([] if config.detector is None else detector_models(config.detector))


__all__ = ["VERSION", "Config", "Promptable", "load", "models", "stamps"]
