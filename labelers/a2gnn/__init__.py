"""Masks from boxes: seeds, an affinity graph an image, a small attention model trained on that image alone."""

import os

from maskmill.data_contracts import content_id, read_bytes
from maskmill.labelers.a2gnn.config import Config, SeedConfig
from maskmill.labelers.a2gnn.labeler import A2gnn, load
from maskmill.vision.clip import clip_fingerprint
from maskmill.vision.crf_options import crf_stamp
from maskmill.vision.pretrained import model_fingerprint
from maskmill.vision.segmenters import weights_stamp

VERSION = 6


def stamps(config: Config) -> tuple[str, ...]:
    """Weights of CLIP, which makes class maps, of who is asked for boxes, and of who makes graphs; which CRF."""
    crf = () if config.crf is None else crf_stamp(config.crf)
    cam = config.seeds.cam
    asked = config.prompted_weight or config.seeds.fusion == "prompted"
    prompted = (model_fingerprint(config.seeds.prompted.model),) if asked else ()
    known = (clip_fingerprint(cam.model, cam.pretrained, cam.precision), *prompted)
    if config.affinity is None:
        return (*known, weights_stamp(config.encoder, config.weights), *crf)
    return (*known, content_id(read_bytes(os.path.join(config.affinity, "config.json"))), *crf)


__all__ = ["VERSION", "A2gnn", "Config", "SeedConfig", "load", "stamps"]
