"""A mask for each box of a photo, by a promptable model: what refiners and judges ask; the labeler asks for more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.data_contracts import Uint8Array
from maskmill.vision.batches import Batches, stacked, thickened
from maskmill.vision.promptable import Call, Family
from maskmill.vision.promptable.readings import best_reading

Float32 = NDArray[np.float32]
OFFSET = 1.0  # of the stability, in logits
MOST = 32  # prompts a call of the decoder
GPU_BATCH = 8


@dataclass(frozen=True, eq=False)
class Question:
    """A photo uint8 (H, W, 3), n boxes float32 (n, 4) x0, y0, x1, y1 on it, and a point (n, 2) x, y on each thing."""

    image: Uint8Array
    boxes: Float32
    points: Float32 | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """The answer to one prompt: small logits float32 (h, w), and predicted IoU times stability, 0 to 1."""

    logits: Tensor
    score: float


@dataclass(frozen=True, eq=False)
class Asked:
    """A photo that was embedded, and the answers, in the order of its boxes."""

    family: Family
    size: tuple[int, int]  # of the photo
    seen: tuple[int, int]  # of what the model saw of it, see `thickened`
    found: tuple[Found, ...]

    def restored(self, logits: Tensor) -> Tensor:
        """Logits (h, w) of an answer at the photo's size: float32 (H, W)."""
        return self.family.restore(logits, self.seen)[: self.size[0], : self.size[1]]


def batches_of(family: Family) -> Batches:
    """Photos an embedding: one on a CPU, where more bring nothing, eight on a GPU."""
    return Batches(GPU_BATCH if family.device.type == "cuda" else 1, f"promptable model {type(family).__name__}")


def ask(family: Family, questions: Sequence[Question], size: int) -> list[Asked]:
    """One mask a box of each of at most `size` photos: what `Batches.run` calls. Each photo is embedded once, in a
    batch of exactly `size`, blanks among them, because kernels round differently for other shapes.
    """
    thick = [thickened(question.image) for question in questions]
    embeddings = family.embed(stacked([family.pixels(image) for image in thick], size))[: len(questions)]
    return [
        _answered(family, question, embedding, (image.shape[0], image.shape[1]))
        for question, embedding, image in zip(questions, embeddings, thick, strict=True)
    ]


def _answered(family: Family, question: Question, embedding: Any, seen: tuple[int, int]) -> Asked:
    boxes, points = question.boxes, question.points
    found: list[Found] = []
    for start in range(0, len(boxes), MOST):
        corners = torch.from_numpy(boxes[start : start + MOST])
        dots = None if points is None else torch.from_numpy(points[start : start + MOST])[:, None]
        signs = None if dots is None else torch.ones(dots.shape[:2], dtype=torch.int64)
        logits, ious = family.decode(embedding, Call(dots, signs, corners), seen, several=True)
        chosen, scores = best_reading(logits, ious, family.real(logits, seen), OFFSET)
        found += [Found(one, score) for one, score in zip(chosen, scores.tolist(), strict=True)]
    return Asked(family, (question.image.shape[0], question.image.shape[1]), seen, tuple(found))
