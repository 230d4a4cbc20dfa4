"""Many dense CRFs at once, in worker processes that import numpy, scipy and OpenCV but not torch."""

import functools
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict

import cv2

from maskmill.vision.crf_options import CrfOptions, crf_backend
from maskmill.vision.refine.crf import Float32, Uint8, dense_crf, wrapped_bgr

logger = logging.getLogger("maskmill")

MOST_WORKERS = 32  # a batch has no more images to refine

_pools: dict[int, ProcessPoolExecutor] = {}
_lock = threading.Lock()


def crf_workers() -> int:
    """Processes for dense CRFs where none are asked for: MASKMILL_CRF_WORKERS where that is set; else one, for a model
    on the CPU has the cores, and beside a GPU as many as there are cores, for that waits for the CRFs.
    """
    if (given := os.environ.get("MASKMILL_CRF_WORKERS")) is not None:
        return max(1, int(given))
    torch = sys.modules.get("torch")  # not imported here: without it there is no model to wait
    beside_gpu = torch is not None and torch.cuda.is_available()
    return min(os.cpu_count() or 1, MOST_WORKERS) if beside_gpu else 1


@functools.cache
def _say(backend: str, image: str, workers: int) -> None:
    """Once a process and kind."""
    logger.info("dense CRF: %s on %s images, %d at once", backend, image, workers)


def refine_many(
    items: Sequence[tuple[Uint8, Float32]], workers: int | None = None, options: CrfOptions | None = None
) -> list[Float32]:
    """`dense_crf` on every (image uint8 (H, W, 3), probs float32 (C, H, W)), in the order of `items`.

    With `workers` > 1 (None = `crf_workers()`) the work goes to that many processes, started once and kept for later
    calls; results are the same for any number. Processes are spawned, not forked, because a fork after torch has
    started its threads may hang.

    Raises:
        RuntimeError: a worker died (most often for want of memory); the next call starts new ones.
    """
    options = options or CrfOptions()
    workers = crf_workers() if workers is None else workers
    tasks = [(image, probs, options) for image, probs in items]
    if tasks:
        _say(crf_backend(options.backend), options.image, workers)
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
    kept = asdict(options)
    seen = wrapped_bgr(image) if kept.pop("image") == "wrapped_bgr" else image
    return dense_crf(seen, probs, **kept)


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
