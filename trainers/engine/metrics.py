"""Segmentation metrics from one confusion matrix over all pixels of a set (torchmetrics), pixels of 255 left out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array
from maskmill.trainers.engine.samples import Samples


class SegmentationMetrics:
    """Streaming confusion matrix of `space.size` classes; `update` image by image, `compute` when done."""

    def __init__(self, space: LabelSpace) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix

        self.space = space
        self.images = 0
        self._matrix = MulticlassConfusionMatrix(max(space.size, 2), ignore_index=IGNORE, validate_args=False)

    def update(self, predicted: Uint8Array, target: Uint8Array) -> None:
        """Count one image: both uint8 (H, W) of class ids; target pixels of 255 do not count.

        Raises:
            ValueError: sizes differ, or a prediction abstains (255) where the target does not.
        """
        if predicted.shape != target.shape:
            raise ValueError(
                f"expected a prediction of {target.shape}, found {predicted.shape}; resize it to the target"
            )
        judged = target != IGNORE
        if (predicted[judged] == IGNORE).any():
            raise ValueError(
                "expected a class at every pixel, found 255 in the prediction; fill it, e.g. with background"
            )
        flat = torch.from_numpy(predicted[judged].astype(np.int64)), torch.from_numpy(target[judged].astype(np.int64))
        self._matrix.update(*flat)
        self.images += 1

    @property
    def matrix(self) -> NDArray[np.int64]:
        """Pixels (classes, classes): rows are the target, columns the prediction."""
        counts: NDArray[np.int64] = self._matrix.compute().numpy().astype(np.int64)
        return counts

    def compute(self) -> dict[str, Any]:
        """miou, dice and pixel_accuracy in [0, 1], `iou` by class name, `images`.

        Means run over the classes that occur in the targets; None where no pixel was judged.
        """
        matrix = self.matrix.astype(np.float64)
        hit, target, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
        present = np.flatnonzero(target)
        if not present.size:
            return {"miou": None, "dice": None, "pixel_accuracy": None, "iou": {}, "images": self.images}
        iou = hit[present] / (target + predicted - hit)[present]
        dice = 2 * hit[present] / (target + predicted)[present]
        return {
            "miou": float(iou.mean()),
            "dice": float(dice.mean()),
            "pixel_accuracy": float(hit.sum() / matrix.sum()),
            "iou": {class_name(self.space, int(i)): float(value) for i, value in zip(present, iou, strict=True)},
            "images": self.images,
        }


def class_name(space: LabelSpace, class_id: int) -> str:
    """Name of an id, `background` for the background's."""
    if class_id in space.by_id:
        return space.by_id[class_id].name
    return "background" if class_id == space.background_id else f"id {class_id}"


def evaluate(
    labels_of: Callable[[Sequence[Uint8Array]], Sequence[Uint8Array]],
    samples: Samples,
    space: LabelSpace,
    batch: int = 8,
) -> dict[str, Any]:
    """Metrics of a function (images uint8 (H, W, 3) to label maps uint8 (H, W)) on all samples with a mask, at
    original size.
    """
    metrics = SegmentationMetrics(space)
    truth = samples.with_masks()
    for start in range(0, len(truth), batch):
        examples = [truth.example(i) for i in range(start, min(start + batch, len(truth)))]
        predicted = labels_of([example.image for example in examples])
        for example, labels in zip(examples, predicted, strict=True):
            if example.mask is not None:
                metrics.update(labels, example.mask)
    return metrics.compute()
