"""Prediction: network 1 alone, as published, or the mean of both networks where pseudo-labels may cost twice."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from maskmill.data_contracts import LabelSpace
from maskmill.trainers.abd.views import zoom_nearest
from maskmill.trainers.engine import PredictConfig, Prediction, Rgb, SegmentationPredictor, evaluating, normalise
from maskmill.trainers.engine.predict import check_images

Zoom = Literal["smooth", "nearest"]


class AbdPredictor(SegmentationPredictor):
    """`predict` runs network 1. `labelled_groups` are the groups whose masks it was trained on. `zoom: nearest` is the
    release's way to the network's square and back, in place of the config's. `floats`: it was trained on float images.
    """

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
        zoom: Zoom = "smooth",
        floats: bool = False,
    ) -> None:
        super().__init__(model, space, mean, std, config, device)
        self.zoom, self.floats = zoom, floats
        self.labelled_groups = labelled_groups
        self._second = None
        if second is not None:
            self._second = AbdPredictor(second, space, mean, std, config, device, zoom=zoom)

    def predict(self, images: Sequence[NDArray[Any]], config: PredictConfig | None = None) -> list[Prediction]:
        """Predict images (H, W, 3) of any sizes, uint8 or float32 of 0..255. A `config` that is given is followed,
        whatever the zoom.
        """
        if self.zoom == "smooth" or config is not None:
            return super().predict(images, config)
        check_images(images)
        with evaluating(self.model):
            return [self._zoomed(image) for image in images]

    def _zoomed(self, image: NDArray[Any]) -> Prediction:
        side = self.config.size
        pixels = normalise(zoom_nearest(image, side, side), self.mean, self.std)
        logits = self.model(pixels[None].to(self.device)).float()[0].permute(1, 2, 0).cpu().numpy()
        full = zoom_nearest(logits, image.shape[0], image.shape[1])
        return Prediction(np.ascontiguousarray(full.transpose(2, 0, 1)))

    def predict_both(self, images: Sequence[NDArray[Any]], config: PredictConfig | None = None) -> list[Prediction]:
        """Mean probabilities of both networks, as logarithms; network 1 alone where there is no other."""
        plain = self.predict(images, config)
        if self._second is None:
            return plain
        other = self._second.predict(images, config)
        return [
            Prediction(np.log(np.clip((a.probabilities + b.probabilities) / 2, 1e-8, None)))
            for a, b in zip(plain, other, strict=True)
        ]
