"""Full batches of requests, smaller ones where memory runs out."""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

R = TypeVar("R")
D = TypeVar("D")

logger = logging.getLogger("maskmill")


def fill(requests: Sequence[R], size: int) -> list[R]:
    """Repeat the last request until there are `size`: kernels choose their order of sums by shape, so the shape is
    kept.
    """
    return [*requests, *[requests[-1]] * (size - len(requests))]


class Batches:
    """How many images of a model are drawn at once. Noise is an image's own: in a smaller batch it is the same image,
    up to the rounding of other kernels.
    """

    def __init__(self, size: int, model: str, device: str) -> None:
        self.size = size  # smaller than asked for once memory ran out
        self._model, self._device = model, device

    def parts(self, requests: Sequence[R]) -> list[Sequence[R]]:
        """The requests, at most `size` at a time."""
        return [requests[start : start + self.size] for start in range(0, len(requests), self.size)]

    def draw(self, requests: Sequence[R], batches: Callable[[Sequence[R]], Iterator[list[D]]]) -> list[D]:
        """What `batches` yields for the requests, in order. Where the device's memory runs out, it is asked again for
        those that are left, with half the size.

        Raises:
            MemoryError: a single image does not fit.
        """
        import torch

        drawn: list[D] = []
        while len(drawn) < len(requests):
            try:
                for part in batches(requests[len(drawn) :]):
                    drawn += part
            except torch.OutOfMemoryError as error:
                full = str(error)
            else:
                break
            gc.collect()  # what the failed call still held
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._halve(full)
        return drawn

    def _halve(self, full: str) -> None:
        if self.size == 1:
            fix = "set offload: model or sequential, vae_tiling: true, quantize, or a smaller height and width"
            raise MemoryError(f"{self._model}: one image does not fit on {self._device}; {fix}: {full}")
        self.size //= 2
        found = f"{self._model}: memory of {self._device} ran out; drawing {self.size} images at a time"
        logger.warning("%s from here on; batch_size: %d would start that way", found, self.size)
