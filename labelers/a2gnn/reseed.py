"""Seeds of boxes again, with class maps that the affinity network has learnt from the seeds of all images."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.labelers.a2gnn.boxes import PixelBox, clamp
from maskmill.labelers.a2gnn.cam_seeds import Confident
from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.hints import with_given
from maskmill.labelers.a2gnn.priors import fill_boxes
from maskmill.labelers.a2gnn.seeds import fuse
from maskmill.labelers.a2gnn.view import View, to_size

Float32 = NDArray[np.float32]


def reseed(view: View, config: Config, background_id: int) -> View:
    """The view with seeds from the class maps learnt from all images as well, where config and graph have them."""
    task = view.task
    if not task.boxes or not len(view.graph.prior) or not (config.prior_weight or config.reseed != "none"):
        return view
    maps = prior_maps(view, config, background_id)
    view = replace(view, prior=maps)
    if config.reseed == "none" or (config.reseed == "weak" and not any(task.seeds.weak)):
        return view
    labels = np.array([background_id, *task.class_ids], np.uint8)[maps.argmax(axis=0)]
    doubtful = maps.max(axis=0) < config.reseed_floor
    claims, sound = list(task.seeds.claims), [True] * len(task.boxes)
    agree, options = None, config.seeds
    if config.reseed == "agree":
        background = ~doubtful & (labels == background_id)
        agree = Confident(np.where(doubtful | background, IGNORE, labels).astype(np.uint8), background)
        sound, options = [not weak for weak in task.seeds.weak], options.model_copy(update={"hollow": False})
    else:
        for i in np.flatnonzero(task.seeds.weak):
            claims[i] = _box_claim(labels, task.boxes[i])
    size = (maps.shape[1], maps.shape[2])
    fused = fuse(task.boxes, claims, sound, agree, size, background_id, options)
    if config.reseed == "weak":
        for i in np.flatnonzero(task.seeds.weak):
            box = task.boxes[i]
            unsure = doubtful[box.at] & np.isin(fused.labels[box.at], (background_id, box.class_id))
            fused.labels[box.at][unsure] = IGNORE
    seeds = replace(fused, plain=task.seeds.plain, weak=task.seeds.weak)
    seeds = with_given(seeds, task.item, config.seeds.point_radius)
    return replace(view, task=replace(task, seeds=seeds))


def prior_maps(view: View, config: Config, background_id: int) -> Float32:
    """Class shares learnt from all images, float32 (1 + K, H, W), fitted to the image's boxes."""
    task = view.task
    size, grid = task.item.image.shape[:2], (2 * view.graph.grid[0], 2 * view.graph.grid[1])
    logits = F.interpolate(
        view.graph.prior[None, [background_id, *task.class_ids]],
        size=grid,
        mode="bilinear",
        align_corners=False,
    )
    factors = [a / b / 4 for a, b in zip(view.image.shape[:2], size, strict=True)]
    scaled = [(1 + task.class_ids.index(b.class_id), b.scaled(factors[0], factors[1], grid)) for b in task.boxes]
    corners = [(channel, b.y0, b.x0, b.y1, b.x1) for channel, b in scaled]
    shares = fill_boxes(logits[0].numpy(), corners, config.prior_fill)
    return clamp(
        to_size(torch.from_numpy(shares), view.image, (size[0], size[1])), task.class_ids, task.boxes, task.free
    )


def _box_claim(labels: Uint8Array, box: PixelBox) -> NDArray[np.bool_]:
    """The box's pixels that bear its class."""
    claim = np.zeros(labels.shape, bool)
    claim[box.at] = labels[box.at] == box.class_id
    return claim
