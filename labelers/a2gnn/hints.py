"""Seeds from hints that are no boxes: scribbles, points, and tags through class maps.

Source: A2GNN (arXiv 2106.04054), which grows scribbles to superpixels and adds points to the seeds of class maps. Which
superpixels, and how, is not documented: see `vision.superpixels`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.labelers.a2gnn.cam_seeds import confident
from maskmill.labelers.a2gnn.config import SeedConfig
from maskmill.labelers.a2gnn.seeds import Seeds
from maskmill.labelers.base import LabelItem
from maskmill.vision.superpixels import expand_strokes

Float32 = NDArray[np.float32]


def point_seeds(item: LabelItem, radius: int) -> Uint8Array:
    """Discs around the given points, uint8 (H, W), 255 elsewhere; where two classes' discs meet, the nearer has it."""
    height, width = item.image.shape[:2]
    labels = np.full((height, width), IGNORE, np.uint8)
    nearest = np.full((height, width), np.inf)
    y, x = np.mgrid[:height, :width]
    for class_id, at_x, at_y in item.points:
        column, row = min(max(int(at_x), 0), width - 1), min(max(int(at_y), 0), height - 1)
        distance = np.hypot(y - row, x - column)
        closer = (distance <= radius) & (distance < nearest)
        labels[closer], nearest[closer] = int(class_id), distance[closer]
    return labels


def with_given(seeds: Seeds, item: LabelItem, radius: int) -> Seeds:
    """Seeds of boxes with what was drawn beside them laid over: strokes, and discs around points. People win."""
    given = point_seeds(item, radius)
    if item.scribble is not None:
        given = np.where(item.scribble != IGNORE, item.scribble, given)
    labels = np.where(given != IGNORE, given, seeds.labels)
    return replace(seeds, labels=labels)


def other_seeds(
    item: LabelItem, maps: Float32 | None, class_ids: Sequence[int], background_id: int, config: SeedConfig
) -> Seeds:
    """Seeds from a scribble, from points, or, where maps are given, from what they are sure of.

    Given pixels win over maps. Maps fill in the background where nothing given is background, and foreground where
    nothing is given, or (`points_with_maps`) beside points. Strokes grow to superpixels where the config says so.
    """
    size = item.image.shape[:2]
    labels = np.full(size, IGNORE, np.uint8)
    if item.scribble is not None:
        drawn = item.scribble
        labels = (
            drawn.copy()
            if config.superpixels is None or config.ready
            else expand_strokes(drawn, item.image, config.superpixels)
        )
    points = point_seeds(item, config.point_radius)
    labels[(labels == IGNORE) & (points != IGNORE)] = points[(labels == IGNORE) & (points != IGNORE)]
    if maps is not None:
        sure, free = confident(item.image, maps, class_ids, config), labels == IGNORE
        if free.all() or (config.points_with_maps and item.scribble is None):
            shown = free & (sure.labels != IGNORE)
            labels[shown] = sure.labels[shown]
        if not (labels == background_id).any():
            labels[free & sure.background & (labels == IGNORE)] = background_id
    return Seeds(labels, maps=maps)
