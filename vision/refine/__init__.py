"""Refiners: turn soft, coarse maps into maps that follow the edges of the image. Imports no torch."""

from vision.refine.crf import CrfBackend, crf_backend, dense_crf, wrapped_bgr
from vision.refine.par import par
from vision.refine.pool import CrfOptions, refine_many

__all__ = ["CrfBackend", "CrfOptions", "crf_backend", "dense_crf", "par", "refine_many", "wrapped_bgr"]
