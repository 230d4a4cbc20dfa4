"""Weak label in, dense pseudo-label out: one sub-package a labeler behind one registry."""

from maskmill.data_contracts import Instance
from maskmill.labelers.base import Labeler, LabelerConfig, LabelItem, PseudoLabel
from maskmill.labelers.registry import (
    LABELERS,
    LabelerModule,
    get_labeler,
    labeler_models,
    labeler_stamps,
    load_labeler,
)

__all__ = [
    "LABELERS",
    "Instance",
    "LabelItem",
    "Labeler",
    "LabelerConfig",
    "LabelerModule",
    "PseudoLabel",
    "get_labeler",
    "labeler_models",
    "labeler_stamps",
    "load_labeler",
]
