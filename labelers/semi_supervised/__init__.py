"""Pseudo-labels and their confidence for unlabelled groups, from a segmenter trained on few labelled ones."""

from maskmill.labelers.semi_supervised.labeler import VERSION, Config, SemiSupervised, load, stamps

__all__ = ["VERSION", "Config", "SemiSupervised", "load", "stamps"]
