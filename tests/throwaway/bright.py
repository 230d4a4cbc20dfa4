"""A throw-away labeler: what is bright is of the first class."""

from collections.abc import Sequence

import numpy as np

from maskmill.data_contracts import LabelSpace
from maskmill.labelers.base import Labeler, LabelerConfig, LabelItem, PseudoLabel

VERSION = 1


class Config(LabelerConfig):
    """Its options."""

    above: int = 100


class BrightLabeler(Labeler):
    """The engine."""

    def __init__(self, config: Config, space: LabelSpace) -> None:
        self._config, self._space = config, space

    def label(self, items: Sequence[LabelItem]) -> list[PseudoLabel]:
        return [self._label(item) for item in items]

    def _label(self, item: LabelItem) -> PseudoLabel:
        mask = np.where(item.image.max(axis=2) > self._config.above, self._space.ids[0], 0).astype(np.uint8)
        return PseudoLabel(mask, np.full_like(mask, 255))


def stamps(config: Config) -> tuple[str, ...]:
    return ()


def load(config: Config, space: LabelSpace) -> BrightLabeler:
    return BrightLabeler(config, space)
