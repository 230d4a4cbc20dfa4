"""Pseudo-labels and their confidence for unlabelled groups, from a segmenter trained on few labelled ones."""

from labelers.semi_supervised.labeler import VERSION, Config, SemiSupervised, load, stamps

__all__ = ["VERSION", "Config", "SemiSupervised", "load", "stamps"]
