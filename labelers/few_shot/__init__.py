"""Masks of one new class from one or a few labelled images."""

from maskmill.labelers.few_shot.config import Config
from maskmill.labelers.few_shot.labeler import FewShot, load
from maskmill.labelers.few_shot.support import support_stamp
from maskmill.trainers.engine import read_info

VERSION = 2


def stamps(config: Config) -> tuple[str, ...]:
    """The supports, and the weights of the frozen or of the trained model."""
    weights = config.priors.stamp if config.artifact is None else read_info(config.artifact).weights
    return (support_stamp(config.support), weights)


__all__ = ["VERSION", "Config", "FewShot", "load", "stamps"]
