"""Many dense CRFs at once, in worker processes that import numpy, scipy and OpenCV but not torch."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass

import cv2

from maskmill.vision.refine.crf import CrfBackend, Float32, Uint8, dense_crf

_pools: dict[int, ProcessPoolExecutor] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class CrfOptions:
    """The options of `dense_crf`, as one value that travels to workers and into config hashes."""

    iterations: int = 10
    gaussian_sxy: float = 1
    gaussian_weight: float = 3
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3
    bilateral_weight: float = 4
    backend: CrfBackend = "mean_field"


def refine_many(
    items: Sequence[tuple[Uint8, Float32]], workers: int = 1, options: CrfOptions | None = None
) -> list[Float32]:
    """`dense_crf` on every (image uint8 (H, W, 3), probs float32 (C, H, W)), in the order of `items`.

    With `workers` > 1 the work goes to that many processes, started once and kept for later calls; results are the same
    for any number. Processes are spawned, not forked, because a fork after torch has started its threads may hang.

    Raises:
        RuntimeError: a worker died (most often for want of memory); the next call starts new ones.
    """
    tasks = [(image, probs, options or CrfOptions()) for image, probs in items]
    if workers <= 1 or len(tasks) < 2:
        return [_refine(task) for task in tasks]
    try:
        return list(_pool(workers).map(_refine, tasks))
    except BrokenProcessPool as error:
        with _lock:
            _pools.pop(workers, None)
        raise RuntimeError(f"a CRF worker died; use fewer than {workers} workers or smaller images") from error


def _refine(task: tuple[Uint8, Float32, CrfOptions]) -> Float32:
    image, probs, options = task
    return dense_crf(image, probs, **asdict(options))


def _pool(workers: int) -> ProcessPoolExecutor:
    with _lock:
        if workers not in _pools:
            context = multiprocessing.get_context("spawn")
            _pools[workers] = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
        return _pools[workers]


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this worker when its parent is gone; a killed parent would otherwise leave it waiting forever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
