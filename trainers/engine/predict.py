"""Dense prediction with a trained segmenter: any image sizes in, logits and labels at those sizes out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.trainers.engine.augment import fitted_size, resize_image
from maskmill.trainers.engine.batches import Rgb, normalise
from maskmill.trainers.engine.config import PredictConfig
from maskmill.trainers.engine.device import evaluating
from maskmill.vision.refine import CrfOptions, refine_many


@dataclass(frozen=True)
class Prediction:
    """Result for one image, at its own size."""

    logits: NDArray[np.float32]  # (C, H, W)

    @property
    def labels(self) -> Uint8Array:
        """Most probable class id, uint8 (H, W)."""
        best: Uint8Array = self.logits.argmax(0).astype(np.uint8)
        return best

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax over classes, (C, H, W)."""
        shifted = np.exp(self.logits - self.logits.max(0, keepdims=True))
        shares: NDArray[np.float32] = shifted / shifted.sum(0, keepdims=True)
        return shares

    @property
    def confidence(self) -> Uint8Array:
        """Probability of the label, 255 = certain, uint8 (H, W)."""
        certainty: Uint8Array = np.rint(255 * self.probabilities.max(0)).astype(np.uint8)
        return certainty


def check_images(images: Sequence[NDArray[Any]]) -> None:
    """Raise ValueError for an image that is not uint8 (H, W, 3), or float32 of 0..255; names its position."""
    for position, image in enumerate(images):
        if image.dtype not in (np.uint8, np.float32) or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image {position}: expected uint8 (H, W, 3), found {image.dtype} {image.shape}")


def with_crf(
    found: Sequence[Prediction], images: Sequence[Uint8Array], options: CrfOptions, workers: int | None = None
) -> list[Prediction]:
    """Predictions after softmax and dense CRF at image size; the logits are logarithms of the CRF's probabilities."""
    items = [(image, one.probabilities) for image, one in zip(images, found, strict=True)]
    return [Prediction(np.log(np.clip(p, 1e-8, None))) for p in refine_many(items, workers, options)]


class SegmentationPredictor:
    """A network from normalised images float32 (B, 3, h, w) to logits (B, C, h', w') on any coarser grid of the same
    field.

    Images are grouped by input size, never padded to a batch mate, so companions do not change a result (but for the
    last bits of float arithmetic). `floats`: whether it was trained on float32 of 0..255, which may then be given.
    """

    floats = False

    def __init__(
        self,
        model: nn.Module,
        space: LabelSpace,
        mean: Rgb,
        std: Rgb,
        config: PredictConfig | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model, self.space, self.mean, self.std = model, space, mean, std
        self.config = config or PredictConfig()
        self.device = device or next((p.device for p in model.parameters()), torch.device("cpu"))
        model.to(memory_format=torch.channels_last)

    def predict(self, images: Sequence[Uint8Array], config: PredictConfig | None = None) -> list[Prediction]:
        """Predict uint8 (H, W, 3) images of any sizes.

        Raises:
            ValueError: an image of another shape or dtype; names its position.
        """
        config = config or self.config
        check_images(images)
        found: dict[int, Prediction] = {}
        with evaluating(self.model):
            for positions in _by_size(images, config):
                logits = self._logits([images[p] for p in positions], config)
                for position, one in zip(positions, logits, strict=True):
                    full = F.interpolate(one[None], images[position].shape[:2], mode="bilinear", align_corners=False)
                    found[position] = Prediction(full[0].cpu().numpy())
        return [found[position] for position in range(len(images))]

    def labels(self, images: Sequence[Uint8Array]) -> list[Uint8Array]:
        """Label maps uint8 (H, W), one an image."""
        return [prediction.labels for prediction in self.predict(images)]

    def _logits(self, images: Sequence[Uint8Array], config: PredictConfig) -> Tensor:
        """Mean logits (B, C, h, w) over scales and mirror, on the grid of scale 1; images share one fitted size."""
        total, count = None, 0
        grid = fitted_size(images[0].shape[0], images[0].shape[1], config.fit, config.size)
        for scale in config.scales:
            pixels = [self._input(image, config, scale) for image in images]
            inputs = torch.stack(pixels).to(self.device)
            for mirrored in (False, True) if config.flip else (False,):
                logits = self._forward(inputs.flip(-1) if mirrored else inputs, config)
                logits = logits.flip(-1) if mirrored else logits
                logits = F.interpolate(logits, grid, mode="bilinear", align_corners=False)
                total = logits if total is None else total + logits
                count += 1
        if total is None:
            raise ValueError("scales: expected at least one")
        return total / count

    def _input(self, image: Uint8Array, config: PredictConfig, scale: float) -> Tensor:
        height, width = fitted_size(image.shape[0], image.shape[1], config.fit, config.size, scale)
        fitted: Any = image if image.shape[:2] == (height, width) else resize_image(image, height, width)
        return normalise(fitted, self.mean, self.std)

    def _forward(self, inputs: Tensor, config: PredictConfig) -> Tensor:
        """Logits (B, C, h, w) at input size, whole or window by window (each window's logits averaged where they
        overlap).
        """
        height, width = inputs.shape[-2:]
        if config.window is None or max(height, width) <= config.window:
            return self._padded(inputs, config.multiple)
        total, count = None, torch.zeros(1, 1, height, width, device=self.device)
        for top, left in _windows(height, width, config.window, config.overlap):
            at = (..., slice(top, top + config.window), slice(left, left + config.window))
            logits = self._padded(inputs[at], config.multiple)
            total = logits.new_zeros(*logits.shape[:2], height, width) if total is None else total
            total[at] += logits
            count[at] += 1
        if total is None:
            raise ValueError("window: expected at least one window")
        return total / count

    def _padded(self, inputs: Tensor, multiple: int) -> Tensor:
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (0, -width % multiple, 0, -height % multiple))
        logits: Tensor = self.model(padded).float()
        logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]


def _by_size(images: Sequence[Uint8Array], config: PredictConfig) -> Iterator[list[int]]:
    """Positions in batches of equal input sizes."""
    sizes: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for position, image in enumerate(images):
        height, width = image.shape[:2]
        key = tuple(fitted_size(height, width, config.fit, config.size, scale) for scale in config.scales)
        sizes.setdefault((fitted_size(height, width, config.fit, config.size), *key), []).append(position)
    for positions in sizes.values():
        for start in range(0, len(positions), config.batch):
            yield positions[start : start + config.batch]


def _windows(height: int, width: int, window: int, overlap: float) -> list[tuple[int, int]]:
    """Corners (top, left) that cover everything; the last of each axis ends at the border."""

    def starts(length: int) -> list[int]:
        stride = max(1, round(window * (1 - overlap)))
        last = max(length - window, 0)
        return sorted({*range(0, last, stride), last})

    return [(top, left) for top in starts(height) for left in starts(width)]
