"""From an image with seeds and graph to what the solver gets."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE
from maskmill.labelers.a2gnn.boxes import PixelBox
from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.solver import Problem
from maskmill.labelers.a2gnn.view import View, padding
from maskmill.trainers.affinity.cells import cell_colours
from maskmill.trainers.affinity.predict import pad_image
from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, normalise


def make_problem(view: View, config: Config, background_id: int) -> Problem:
    """The image as the solver wants it."""
    task, graph, image = view.task, view.graph, view.image
    stride = config.loss_stride
    height, width = (side * 8 // stride for side in graph.grid)
    factor_y, factor_x = (a / b / stride for a, b in zip(image.shape[:2], task.item.image.shape[:2], strict=True))
    channel = {class_id: number for number, class_id in enumerate(task.channel_ids, start=1)}
    scaled = [(channel[b.class_id], b.scaled(factor_y, factor_x, (height, width))) for b in task.boxes]
    values = np.full(256, IGNORE, np.int64)
    values[[background_id, *task.channel_ids]] = range(len(task.channel_ids) + 1)
    seeds = np.full((height, width), IGNORE, np.int64)
    rows = np.arange(min(height, -(-image.shape[0] // stride)))
    columns = np.arange(min(width, -(-image.shape[1] // stride)))
    at_y = np.minimum(((rows + 0.5) / factor_y).astype(int), task.item.image.shape[0] - 1)
    at_x = np.minimum(((columns + 0.5) / factor_x).astype(int), task.item.image.shape[1] - 1)
    seeds[: len(rows), : len(columns)] = values[task.seeds.labels[np.ix_(at_y, at_x)]]
    if config.cells == "released" and not task.boxes:
        seeds[len(rows) :], seeds[:, len(columns) :] = 0, 0
    _keep_every_box(seeds, [(k, b) for k, b in scaled])
    pixels = pad_image(normalise(image, IMAGENET_MEAN, IMAGENET_STD)[None], padding(image), config.cells)
    return Problem(
        task.item.sample_id,
        graph.nodes,
        graph.affinity,
        cell_colours(pixels, graph.grid, config.cells)[0],
        torch.from_numpy(seeds),
        tuple((k, b.y0, b.x0, b.y1, b.x1) for k, b in scaled),
        len(task.channel_ids) + 1,
    )


def _keep_every_box(seeds: NDArray[np.int64], boxes: Sequence[tuple[int, PixelBox]]) -> None:
    """A small box may lose its seeds between the points of a coarse grid: its middle point then takes their place."""
    for channel, box in boxes:
        if not (seeds[box.at] == channel).any():
            seeds[(box.y0 + box.y1) // 2, (box.x0 + box.x1) // 2] = channel
