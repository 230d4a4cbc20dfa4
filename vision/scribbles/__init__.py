"""Scribbles: strokes to maps, maps to other grids without losing or inventing labels, and strokes drawn from masks."""

from maskmill.vision.scribbles.maps import grid_labels, grid_valid, resize_scribble
from maskmill.vision.scribbles.simulate import SimulateConfig, simulate_scribble, simulate_strokes
from maskmill.vision.scribbles.strokes import Stroke, rasterise, shrink_stroke

__all__ = [
    "SimulateConfig",
    "Stroke",
    "grid_labels",
    "grid_valid",
    "rasterise",
    "resize_scribble",
    "shrink_stroke",
    "simulate_scribble",
    "simulate_strokes",
]
