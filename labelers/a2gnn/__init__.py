"""Masks from boxes: seeds, an affinity graph an image, a small attention model trained on that image alone."""

import os

from maskmill.data_contracts import content_id, read_bytes
from maskmill.labelers.a2gnn.config import Config, SeedConfig
from maskmill.labelers.a2gnn.labeler import A2gnn, load
from maskmill.vision.clip import clip_fingerprint
from maskmill.vision.crf_options import crf_stamp
from maskmill.vision.pretrained import Precision, model_fingerprint
from maskmill.vision.segmenters import weights_stamp

VERSION = 6


def stamps(config: Config) -> tuple[str, ...]:
    """Weights of CLIP, which makes class maps, of who is asked for boxes, and of who makes graphs; which CRF."""
    crf = () if config.crf is None else crf_stamp(config.crf)
    cam = config.seeds.cam
    asked = (model_fingerprint(model) for model, _ in models(config))
    known = (clip_fingerprint(cam.model, cam.pretrained, cam.precision), *asked)
    if config.affinity is None:
        return (*known, weights_stamp(config.encoder, config.weights), *crf)
    return (*known, content_id(read_bytes(os.path.join(config.affinity, "config.json"))), *crf)


def models(config: Config) -> list[tuple[str, Precision]]:
    """The folder or hub id of who is asked for boxes, with its precision."""
    asked, own = config.prompted_weight or config.seeds.fusion == "prompted", config.seeds.prompted
    return [(own.model, own.precision)] if asked else []


__all__ = ["VERSION", "A2gnn", "Config", "SeedConfig", "load", "models", "stamps"]
