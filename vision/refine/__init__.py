"""Refiners: turn soft, coarse maps into maps that follow the edges of the image. Imports no torch."""

from maskmill.vision.refine.crf import CrfBackend, crf_backend, dense_crf, wrapped_bgr
from maskmill.vision.refine.par import par
from maskmill.vision.refine.pool import CrfOptions, refine_many

__all__ = ["CrfBackend", "CrfOptions", "crf_backend", "dense_crf", "par", "refine_many", "wrapped_bgr"]
