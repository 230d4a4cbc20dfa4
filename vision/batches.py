"""Photos ready for a model, and batches that shrink where the device's memory runs out."""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from maskmill.data_contracts import Uint8Array

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("maskmill.label")

T = TypeVar("T")
R = TypeVar("R")


class Batches:
    """How many images pass through a model at once; `size` is halved for good where memory runs out. `fix`: what else
    helps.
    """

    def __init__(self, size: int, model: str, fix: str = "fewer prompts a call, or take a smaller model") -> None:
        self.size, self._model, self._fix = size, model, fix

    def run(self, items: Sequence[T], call: Callable[[Sequence[T], int], Sequence[R]]) -> list[R]:
        """What `call(part, size)` gives for parts of at most `size` items, end to end.

        Raises:
            MemoryError: a single image does not fit.
        """
        import torch

        done: list[R] = []
        while len(done) < len(items):
            size = self.size  # another thread may halve it meanwhile
            try:
                done += call(items[len(done) : len(done) + size], size)
                continue
            except torch.OutOfMemoryError as error:
                full = str(error)
            gc.collect()  # what the failed call still held
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(size, full)
        return done

    def _halve(self, size: int, full: str) -> None:
        if size == 1:
            raise MemoryError(f"{self._model}: one image does not fit; set precision: bf16, {self._fix}: {full}")
        self.size = min(self.size, size // 2)
        logger.warning("%s: memory ran out; %d images at a time from here on", self._model, self.size)


def stacked(images: "Sequence[Tensor]", size: int) -> "Tensor":
    """A batch of exactly `size` images: blanks after those given, since kernels round differently for other shapes."""
    import torch

    return torch.stack([*images, *[torch.zeros_like(images[0])] * (size - len(images))])


def thickened(image: Uint8Array, most: int = 64) -> Uint8Array:
    """A photo whose sides differ by more than `most` times, its last row or column repeated until they do not: a
    model's input would have nothing of it.
    """
    least = -(-max(image.shape[:2]) // most)
    missing = [(0, max(0, least - side)) for side in image.shape[:2]]
    return np.pad(image, [*missing, (0, 0)], mode="edge") if any(more for _, more in missing) else image
