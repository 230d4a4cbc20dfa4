"""The test recipe: long side fixed, scales and mirror averaged as logits on the token grid, dense CRF where wanted."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array
from maskmill.trainers.engine import PredictConfig, Prediction, SegmentationPredictor
from maskmill.vision.refine import CrfOptions, refine_many

TEST_CRF = CrfOptions(gaussian_sxy=3, gaussian_weight=3, bilateral_sxy=64, bilateral_srgb=5, bilateral_weight=4)


class WeclipPredictor(SegmentationPredictor):
    """Predicts without labels. Image sides that do not divide by the patch are floored to it, as CLIP does."""

    def _logits(self, images: Sequence[Uint8Array], config: PredictConfig) -> Tensor:
        """Mean logits (B, C, h, w): over each flip pair, resized to the first scale's token grid, over scales."""
        if config.window is not None:
            return super()._logits(images, config)
        total: Tensor | None = None
        for scale in config.scales:
            inputs = torch.stack([self._input(image, config, scale) for image in images]).to(self.device)
            logits = self.model(inputs).float()
            if config.flip:
                logits = (logits + self.model(inputs.flip(-1)).float().flip(-1)) / 2
            if total is None:
                total = logits
            else:
                total = total + F.interpolate(logits, total.shape[2:], mode="bilinear", align_corners=False)
        if total is None:
            raise ValueError("scales: expected at least one")
        return total / len(config.scales)

    def predict_crf(
        self, images: Sequence[Uint8Array], options: CrfOptions = TEST_CRF, workers: int = 1
    ) -> list[Prediction]:
        """`predict`, then softmax and dense CRF at image size; the logits are logarithms of the CRF's probabilities."""
        plain = self.predict(images)
        items = [(image, one.probabilities) for image, one in zip(images, plain, strict=True)]
        return [Prediction(np.log(np.clip(p, 1e-8, None))) for p in refine_many(items, workers, options)]
