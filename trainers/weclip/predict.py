"""The test recipe: long side fixed, scales and mirror averaged as logits on the token grid, dense CRF where wanted."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array
from maskmill.trainers.engine import PredictConfig, Prediction, SegmentationPredictor, normalise, with_crf
from maskmill.trainers.engine.device import evaluating
from maskmill.trainers.engine.predict import check_images
from maskmill.trainers.weclip.config import TEST_CRF
from maskmill.vision.crf_options import CrfOptions

Resize = Literal["pixels", "input"]
NEVER = -1e4  # a logit of what an image is known not to show; finite, so that it may be interpolated


class WeclipPredictor(SegmentationPredictor):
    """Predicts without labels. Image sides that do not divide by the patch are floored to it, as CLIP does.

    `resize` says how an image reaches its size, see `Config.test_resize`; `crf` is what `predict_crf` asks for.
    """

    def __init__(self, *args: Any, resize: Resize = "pixels", crf: CrfOptions = TEST_CRF, **more: Any) -> None:
        super().__init__(*args, **more)
        self.resize, self.crf = resize, crf

    def predict(self, images: Sequence[Uint8Array], config: PredictConfig | None = None) -> list[Prediction]:
        """As `SegmentationPredictor.predict`; one by one where the release resizes, for grids of images that others
        would round to one size may differ by a token there.
        """
        config = config or self.config
        return super().predict(images, config.model_copy(update={"batch": 1}) if self.resize == "input" else config)

    def predict_told(self, images: Sequence[Uint8Array], tags: Sequence[Sequence[int]]) -> list[Prediction]:
        """As `predict`, for images whose classes are known: no other can win, besides the background."""
        check_images(images)
        found = []
        with evaluating(self.model):
            for image, own in zip(images, tags, strict=True):
                logits = self._logits([image], self.config, [own])
                known = [*own] if self.space.background_id is None else [self.space.background_id, *own]
                others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
                others[known] = False
                logits = logits.masked_fill(others[:, None, None], NEVER)
                full = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
                found.append(Prediction(full[0].cpu().numpy()))
        return found

    def _logits(
        self, images: Sequence[Uint8Array], config: PredictConfig, told: Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        """Mean logits (B, C, h, w): over each flip pair, resized to the first scale's token grid, over scales."""
        if config.window is not None:
            return super()._logits(images, config)
        total: Tensor | None = None
        for scale in config.scales:
            inputs = self._inputs(images, config, scale).to(self.device)
            logits = self.model(inputs, told).float()
            if config.flip:
                logits = (logits + self.model(inputs.flip(-1), told).float().flip(-1)) / 2
            if total is None:
                total = logits
            else:
                total = total + F.interpolate(logits, total.shape[2:], mode="bilinear", align_corners=False)
        if total is None:
            raise ValueError("scales: expected at least one")
        return total / len(config.scales)

    def _inputs(self, images: Sequence[Uint8Array], config: PredictConfig, scale: float) -> Tensor:
        if self.resize == "pixels" or config.fit != "long":
            return torch.stack([self._input(image, config, scale) for image in images])
        return torch.cat([self._released_input(image, config.size, scale) for image in images])

    def _released_input(self, image: Uint8Array, size: int, scale: float) -> Tensor:
        """(1, 3, h, w) as the release makes it: bilinear on the normalised image, long side first, then the scale."""
        ratio = size / max(image.shape[:2])
        sides = [int(side * ratio) for side in image.shape[:2]]
        whole = normalise(image, self.mean, self.std)[None]
        fitted = F.interpolate(whole, sides, mode="bilinear", align_corners=False)
        if scale == 1.0:
            return fitted
        return F.interpolate(fitted, scale_factor=scale, mode="bilinear", align_corners=False)

    def predict_crf(
        self, images: Sequence[Uint8Array], options: CrfOptions | None = None, workers: int | None = None
    ) -> list[Prediction]:
        """`predict`, then softmax and dense CRF at image size."""
        return with_crf(self.predict(images), images, options or self.crf, workers)
