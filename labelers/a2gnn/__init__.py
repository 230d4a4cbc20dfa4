"""Masks from boxes: seeds, an affinity graph an image, a small attention model trained on that image alone."""

import os

from maskmill.data_contracts import content_id, read_bytes
from maskmill.labelers.a2gnn.config import Config, SeedConfig
from maskmill.labelers.a2gnn.labeler import A2gnn, load
from maskmill.vision.clip import clip_fingerprint
from maskmill.vision.crf_options import crf_stamp
from maskmill.vision.segmenters import weights_stamp

VERSION = 5


def stamps(config: Config) -> tuple[str, ...]:
    """Weights of CLIP, which makes class maps, and of the network that makes graphs; which CRF."""
    crf = () if config.crf is None else crf_stamp(config.crf)
    cam = config.seeds.cam
    clip = clip_fingerprint(cam.model, cam.pretrained, cam.precision)
    if config.affinity is None:
        return (clip, weights_stamp(config.encoder, config.weights), *crf)
    return (clip, content_id(read_bytes(os.path.join(config.affinity, "config.json"))), *crf)


__all__ = ["VERSION", "A2gnn", "Config", "SeedConfig", "load", "stamps"]
