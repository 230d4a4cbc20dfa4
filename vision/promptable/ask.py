"""A mask for each box of a photo, by a promptable model: what refiners and judges ask; the labeler asks for more."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskmill.data_contracts import Uint8Array
from maskmill.vision.batches import thickened
from maskmill.vision.promptable import Call, Family
from maskmill.vision.promptable.readings import best_reading

Float32 = NDArray[np.float32]
OFFSET = 1.0  # of the stability, in logits
MOST = 32  # prompts a call of the decoder


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


def ask(family: Family, image: Uint8Array, boxes: Float32, points: Float32 | None = None) -> Asked:
    """One mask a box (n, 4) x0, y0, x1, y1 of a photo uint8 (H, W, 3), with a point (n, 2) x, y on each thing where
    `points` are given. The photo is embedded once, alone.
    """
    thick = thickened(image)
    seen = (thick.shape[0], thick.shape[1])
    (embedding,) = family.embed(family.pixels(thick)[None])
    found: list[Found] = []
    for start in range(0, len(boxes), MOST):
        corners = torch.from_numpy(boxes[start : start + MOST])
        dots = None if points is None else torch.from_numpy(points[start : start + MOST])[:, None]
        signs = None if dots is None else torch.ones(dots.shape[:2], dtype=torch.int64)
        logits, ious = family.decode(embedding, Call(dots, signs, corners), seen, several=True)
        chosen, scores = best_reading(logits, ious, family.real(logits, seen), OFFSET)
        found += [Found(one, score) for one, score in zip(chosen, scores.tolist(), strict=True)]
    return Asked(family, (image.shape[0], image.shape[1]), seen, tuple(found))
