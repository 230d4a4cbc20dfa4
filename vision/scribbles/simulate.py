"""Scribbles drawn from masks as a hurried person would: a wavering line along the middle of each region.

Each connected region is thinned to its skeleton; the stroke is a part of the skeleton's longest path, smoothed and
jittered, and never leaves its own class. Everything follows from (mask, config, seed).
"""

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import IGNORE, Uint8Array, sample_seed
from maskmill.vision.scribbles.strokes import Stroke, rasterise

Bools = NDArray[np.bool_]
Cell = tuple[int, int]
AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise from north


class SimulateConfig(BaseModel):
    """How strokes are drawn from a mask."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    coverage: tuple[float, float] = Field(
        default=(0.4, 0.8),
        description="least and greatest share of the skeleton's longest path that a stroke covers, uniform",
    )
    jitter: float = Field(
        default=0.35, ge=0, le=1, description="wavering, as a share of the distance to the region's border"
    )
    line_width: int = Field(default=3, ge=1, description="of strokes, in pixels")
    min_area: float = Field(
        default=0.002, ge=0, lt=1, description="smaller regions, as a share of the image, get no stroke"
    )
    max_regions: int = Field(default=3, ge=1, description="largest regions of a class that get a stroke")
    drop: float = Field(
        default=0.0, ge=0, lt=1, description="chance that a stroke is left out; each class keeps its first"
    )
    thin_side: int = Field(default=96, ge=16, description="long side at which regions are thinned, in pixels")


def simulate_scribble(
    mask: Uint8Array, sample_id: str, config: SimulateConfig | None = None, seed: int = 0
) -> Uint8Array:
    """A scribble map uint8 (H, W), 255 = not annotated, from a mask of class ids (255 = ignore).

    Every labelled pixel has its mask's label. Classes whose regions are all too small get no stroke.
    """
    config = config or SimulateConfig()
    strokes = simulate_strokes(mask, sample_id, config, seed)
    height, width = mask.shape
    drawn = rasterise(strokes, height, width, config.line_width)
    out: Uint8Array = np.where(drawn == mask, drawn, IGNORE).astype(np.uint8)  # a wide line may leave a thin region
    return out


def simulate_strokes(
    mask: Uint8Array, sample_id: str, config: SimulateConfig | None = None, seed: int = 0
) -> list[Stroke]:
    """The strokes behind `simulate_scribble`, background included."""
    config = config or SimulateConfig()
    strokes = []
    for class_id in (int(i) for i in np.unique(mask) if i != IGNORE):
        rng = np.random.default_rng(sample_seed(seed, sample_id, f"scribble {class_id}"))
        for number, region in enumerate(_regions(mask == class_id, config)):
            stroke = _stroke(region, class_id, config, rng)
            dropped = rng.random() < config.drop and number > 0
            if not dropped:
                strokes.append(stroke)
    return strokes


def _regions(area: Bools, config: SimulateConfig) -> list[Bools]:
    """Connected regions, largest first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(area.astype(np.uint8), connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA]
    order = sorted(range(1, count), key=lambda i: (-int(sizes[i]), i))[: config.max_regions]
    return [labels == i for i in order if sizes[i] >= config.min_area * area.size]


def _stroke(region: Bools, class_id: int, config: SimulateConfig, rng: np.random.Generator) -> Stroke:
    """A wavering part of the longest skeleton path of a region."""
    height, width = region.shape
    factor = min(1.0, config.thin_side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
    room = cv2.distanceTransform(np.pad(small, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = np.unravel_index(int(room.argmax()), room.shape)
    path = longest_path(skeleton(small)) or [(int(deepest[0]), int(deepest[1]))]  # thinning may eat a small blob whole
    length = max(2, round(len(path) * rng.uniform(*config.coverage)))
    start = int(rng.integers(max(len(path) - length, 0) + 1))
    cells = np.array(path[start : start + length], np.float64)
    free = room[cells[:, 0].astype(int), cells[:, 1].astype(int)]
    waver = _smooth(_smooth(rng.standard_normal((len(cells), 2)), 6), 6) * (6 * config.jitter * free[:, None])
    cells = _smooth(cells, 3) + np.clip(waver, -0.5 * free[:, None], 0.5 * free[:, None])
    points = (cells[:, ::-1] + 0.5) * [width / size[0], height / size[1]] - 0.5
    return Stroke(class_id, np.clip(points, 0, [width - 1, height - 1]))


def _smooth(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Running mean over 2 reach + 1 rows; ends are repeated."""
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), padded]), axis=0)
    out: NDArray[np.float64] = (sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)
    return out


def skeleton(area: Bools) -> Bools:
    """One pixel wide middle lines of a region: thinning after Zhang and Suen (1984); beyond the image is outside."""
    image = np.pad(area, 1)
    while True:
        removed = False
        for odd in (True, False):
            n, ne, e, se, s, sw, w, nw = (np.roll(image, (-dy, -dx), (0, 1)) for dy, dx in AROUND)
            ring = (n, ne, e, se, s, sw, w, nw)
            count = np.sum(ring, axis=0)
            rises = np.sum([~a & b for a, b in zip(ring, (*ring[1:], n), strict=True)], axis=0)
            sides = ~(n & e & s) & ~(e & s & w) if odd else ~(n & e & w) & ~(n & s & w)
            goes = image & (count >= 2) & (count <= 6) & (rises == 1) & sides
            image &= ~goes
            removed |= bool(goes.any())
        if not removed:
            return image[1:-1, 1:-1]


def longest_path(lines: Bools) -> list[Cell]:
    """The longest of the shortest paths between two cells of a skeleton (row, column), by two breadth-first passes."""
    cells = {(int(y), int(x)) for y, x in np.argwhere(lines)}
    if not cells:
        return []
    best: list[Cell] = []
    unseen = set(cells)
    while unseen:  # a skeleton may be in parts
        start = min(unseen)
        far, parents = _furthest(start, cells)
        unseen -= parents.keys()
        end, parents = _furthest(far, cells)
        path = [end]
        while path[-1] != far:
            path.append(parents[path[-1]])
        best = max(best, path, key=len)
    return best


def _furthest(start: Cell, cells: set[Cell]) -> tuple[Cell, dict[Cell, Cell]]:
    parents = {start: start}
    queue, last = deque([start]), start
    while queue:
        last = queue.popleft()
        for dy, dx in AROUND:
            near = (last[0] + dy, last[1] + dx)
            if near in cells and near not in parents:
                parents[near] = last
                queue.append(near)
    return last, parents
