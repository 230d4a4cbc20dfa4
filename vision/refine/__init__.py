"""Refiners: turn soft, coarse maps into maps that follow the edges of the image. Imports no torch."""

from maskmill.vision.crf_options import CrfBackend, CrfOptions, crf_backend, laid_over
from maskmill.vision.refine.crf import dense_crf, wrapped_bgr
from maskmill.vision.refine.par import par
from maskmill.vision.refine.pool import crf_workers, refine_many

__all__ = [
    "CrfBackend",
    "CrfOptions",
    "crf_backend",
    "crf_workers",
    "dense_crf",
    "laid_over",
    "par",
    "refine_many",
    "wrapped_bgr",
]
