"""Training-free masks from image tags: CLIP's class maps, spread by its attention and refined along colour edges."""

from maskmill.labelers.clip_cam.config import Config
from maskmill.labelers.clip_cam.labeler import ClipCam, load
from maskmill.vision.clip import clip_fingerprint
from maskmill.vision.crf_options import crf_stamp

VERSION = 5


def stamps(config: Config) -> tuple[str, ...]:
    """The model's weights; which CRF; that the ignore band is cut on shares (once on shares rounded to 8 bits)."""
    band = ("band on shares",) if config.confidence else ()
    crf = crf_stamp(config.crf) if config.refine == "crf" else ()
    return (clip_fingerprint(config.model, config.pretrained, config.precision), *crf, *band)


__all__ = ["VERSION", "ClipCam", "Config", "load", "stamps"]
