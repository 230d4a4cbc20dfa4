"""Trainers: one sub-package a method over one engine; each leaves an artifact folder that `load_artifact` turns into
a predictor.
"""

from maskmill.trainers.registry import TRAINERS, Trainer, get_trainer, load_artifact

__all__ = ["TRAINERS", "Trainer", "get_trainer", "load_artifact"]
