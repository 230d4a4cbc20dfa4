"""Masks of what a group of images shares, without a class name, by a network of the trainer `dcfm`."""

from maskmill.labelers.co_saliency.config import Config
from maskmill.labelers.co_saliency.labeler import CoSaliency, load
from maskmill.trainers.engine import read_info

VERSION = 1


def stamps(config: Config) -> tuple[str, ...]:
    """The network: its run and its weights."""
    info = read_info(config.artifact)
    return (info.fingerprint, info.weights)


__all__ = ["VERSION", "CoSaliency", "Config", "load", "stamps"]
