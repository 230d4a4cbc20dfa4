"""Dense masks from scribbles: a model trained on them (`dfr`, `scwssod`, or any other) fills in what nobody drew, and
what somebody drew stays as it is.
"""

from maskmill.labelers.scribble.config import Config
from maskmill.labelers.scribble.labeler import ScribbleLabeler, load
from maskmill.trainers.engine import read_info

VERSION = 1


def stamps(config: Config) -> tuple[str, ...]:
    """The trained weights."""
    return (read_info(config.artifact).weights,)


__all__ = ["VERSION", "Config", "ScribbleLabeler", "load", "stamps"]
