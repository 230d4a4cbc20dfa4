"""Masks of what a group of images shares, without a class name, by a network of the trainer `dcfm`."""

from maskmill.labelers.co_saliency.config import Config
from maskmill.labelers.co_saliency.labeler import CoSaliency, load
from maskmill.trainers.engine import read_info
from maskmill.vision.crf_options import crf_stamp

VERSION = 2


def stamps(config: Config) -> tuple[str, ...]:
    """The network: its run and its weights; which CRF."""
    info = read_info(config.artifact)
    return (info.fingerprint, info.weights, *(crf_stamp(config.crf) if config.refine == "crf" else ()))


__all__ = ["VERSION", "CoSaliency", "Config", "load", "stamps"]
