"""The network that goes on: the best of all evaluations, into BCP's second phase and into the artifact, as released."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from maskmill.data_contracts import LabelSpace, Uint8Array
from maskmill.trainers.engine import Loop, Samples, SegmentationPredictor, evaluate

BEST = "best"
SEEN = "best dice"  # in the loop's memory


class Keeper:
    """Keeps network 1 and its optimiser of the evaluation with the highest `volume_dice`; both lie in the checkpoint,
    so that a run that was killed goes on with them.
    """

    def __init__(self, first: nn.Module, optimizer: Callable[[nn.Module], Optimizer]) -> None:
        self.first = first
        self.network = copy.deepcopy(first)
        self.optimizer = optimizer(self.network)

    def score(
        self, loop: Loop, own: Optimizer, predictor: SegmentationPredictor, val: Samples, space: LabelSpace
    ) -> dict[str, Any]:
        """Metrics of an evaluation, `dice` among them; network 1 and its optimiser `own` are kept where it is best."""
        found = measure(predictor, val, space)
        if found["dice"] > loop.memory.get(SEEN, 0.0):
            loop.memory[SEEN] = found["dice"]
            self.network.load_state_dict(self.first.state_dict())
            self.optimizer.load_state_dict(copy.deepcopy(own.state_dict()))
        return found

    def give_back(self, loop: Loop, own: Optimizer | None = None) -> None:
        """Network 1 (and its optimiser) as it was at its best; unchanged where no evaluation found anything. What comes
        then is a race of its own.
        """
        if loop.memory.pop(SEEN, 0.0) > 0:
            self.first.load_state_dict(self.network.state_dict())
            if own is not None:
                own.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))


def measure(predictor: SegmentationPredictor, val: Samples, space: LabelSpace) -> dict[str, Any]:
    """The usual metrics of samples with masks, and `dice`, which is `volume_dice` of the same predictions."""
    found: list[Uint8Array] = []

    def labels(images: Any) -> list[Uint8Array]:
        some = predictor.labels(images)
        found.extend(some)
        return some

    metrics, truth = evaluate(labels, val, space), val.with_masks()
    return {**metrics, "dice": volume_dice(found, truth, space)}


def volume_dice(predicted: list[Uint8Array], truth: Samples, space: LabelSpace) -> float:
    """Dice of each class in all slices of a group together, mean over groups, then over classes; 0 for a class that is
    not predicted. The slices of `truth`, in its order. A sample without a group is one by itself.
    """
    sums: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
    for position, labels in enumerate(predicted):
        example = truth.example(position)
        if example.mask is None:
            continue
        group = example.info.group or example.info.sample_id
        rows = sums.setdefault(group, np.zeros((len(space.ids), 2), np.int64))
        for row, class_id in enumerate(space.ids):
            own, real = labels == class_id, example.mask == class_id
            rows[row] += int((own & real).sum()), int(own.sum()) + int(real.sum())
    shares = [2 * rows[:, 0] / np.maximum(rows[:, 1], 1) for rows in sums.values()]
    return float(np.mean(shares)) if shares else 0.0
