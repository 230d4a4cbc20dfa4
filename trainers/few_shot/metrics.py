"""Class mIoU and FB-IoU, accumulated over episodes before they are divided, and the average precision of a prior."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array

EPSILON = 1e-10


class EpisodeMetrics:
    """Sums of intersections and unions, foreground by class, background and foreground over all episodes."""

    def __init__(self) -> None:
        self.episodes = 0
        self._by_class: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
        self._sides = np.zeros((2, 2))  # background, foreground x intersection, union

    def update(self, class_id: int, predicted: NDArray[Any], target: Uint8Array) -> None:
        """Count an episode: `predicted` (H, W), true on the object; `target` (H, W) of 0, 1 and 255 (left out).

        Raises:
            ValueError: sizes differ.
        """
        if predicted.shape != target.shape:
            raise ValueError(
                f"class {class_id}: expected a prediction of {target.shape}, found {predicted.shape}; resize it"
            )
        judged = target != IGNORE
        hit, truth = predicted[judged].astype(bool), target[judged] == 1
        sides = np.array([_overlap(~hit, ~truth), _overlap(hit, truth)])
        self._sides += sides
        self._by_class[class_id] += sides[1]
        self.episodes += 1

    def compute(self, classes: Sequence[int]) -> dict[str, Any]:
        """`miou` (mean over `classes`; one that was never drawn counts 0), `fbiou`, `iou` by class id, `episodes`."""
        iou = {c: float(self._by_class[c][0] / (self._by_class[c][1] + EPSILON)) for c in classes}
        return {
            "miou": float(np.mean(list(iou.values()))) if iou else 0.0,
            "fbiou": float((self._sides[:, 0] / (self._sides[:, 1] + EPSILON)).mean()),
            "iou": iou,
            "episodes": self.episodes,
        }


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[float, float]:
    return float((a & b).sum()), float((a | b).sum())


def average_precision(scores: NDArray[Any], target: Uint8Array) -> float:
    """Area under the precision-recall steps of `scores` (H, W) against `target` (H, W) of 0, 1 and 255 (left out).

    Pixels of one score are taken together; a constant map gives the share of the object. NaN without an object.
    """
    judged = target != IGNORE
    values, truth = scores[judged].astype(np.float64), target[judged] == 1
    if not truth.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    hits = np.cumsum(truth)[ends]
    recall = np.diff(hits, prepend=0) / truth.sum()
    return float((recall * hits / (ends + 1)).sum())
