"""Weak label in, dense pseudo-label out."""
