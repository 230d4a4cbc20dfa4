"""Choices that a config may name; a config needs no model to be read."""

from typing import Literal

CamLayer = Literal["norm", "output"]
"""Where class maps are taken: the last block's first LayerNorm (as published), or the block's output."""
