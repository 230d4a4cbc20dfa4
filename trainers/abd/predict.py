"""Prediction: network 1 alone, as published, or the mean of both networks where pseudo-labels may cost twice."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.trainers.engine import PredictConfig, Prediction, Rgb, SegmentationPredictor


class AbdPredictor(SegmentationPredictor):
    """`predict` runs network 1. `labelled_groups` are the groups whose masks it was trained on."""

    def __init__(
        self,
        model: nn.Module,
        space: LabelSpace,
        mean: Rgb,
        std: Rgb,
        config: PredictConfig | None = None,
        device: torch.device | None = None,
        *,
        second: nn.Module | None = None,
        labelled_groups: tuple[str, ...] = (),
    ) -> None:
        super().__init__(model, space, mean, std, config, device)
        self.labelled_groups = labelled_groups
        self._second = None
        if second is not None:
            self._second = SegmentationPredictor(second, space, mean, std, config, device)

    def predict_both(self, images: Sequence[Uint8Array], config: PredictConfig | None = None) -> list[Prediction]:
        """Mean probabilities of both networks, as logarithms; network 1 alone where there is no other."""
        plain = self.predict(images, config)
        if self._second is None:
            return plain
        other = self._second.predict(images, config)
        return [
            Prediction(np.log(np.clip((a.probabilities + b.probabilities) / 2, 1e-8, None)))
            for a, b in zip(plain, other, strict=True)
        ]
