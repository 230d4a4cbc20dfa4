"""Class maps spread by a random walk along the edges of an image's graph, for points and tags."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from maskmill.labelers.a2gnn.config import Config
from maskmill.labelers.a2gnn.view import View, enlarge, padding, resized

Float32 = NDArray[np.float32]


def random_walk(affinity: Tensor, maps: NDArray[np.float32], power: float = 8, steps: int = 64) -> NDArray[np.float32]:
    """Class maps (K, h, w) spread along edges: `steps` of a walk whose chances are affinity^power, columns summing
    to 1.
    """
    from scipy import sparse

    window, height, width = affinity.shape
    side = int(window**0.5)
    values = affinity.flatten(1).numpy().astype(np.float32) ** power
    y, x = (v.ravel() for v in np.mgrid[:height, :width])
    parts = []
    for n in range(window):
        ny, nx = y + n // side - side // 2, x + n % side - side // 2
        edge = (values[n] > 0) & (ny >= 0) & (ny < height) & (nx >= 0) & (nx < width)
        parts.append((values[n][edge], np.flatnonzero(edge), (ny * width + nx)[edge]))
    data, rows, columns = (np.concatenate([part[i] for part in parts]) for i in range(3))
    walk = sparse.csr_matrix((data, (rows, columns)), shape=(height * width, height * width))
    walk = walk @ sparse.diags(1 / np.asarray(walk.sum(axis=0)).ravel().clip(1e-12))
    spread = maps.reshape(len(maps), -1).T
    for _ in range(steps):
        spread = walk.T @ spread
    out: NDArray[np.float32] = np.ascontiguousarray(spread.T).reshape(maps.shape).astype(np.float32)
    return out


def walked_maps(view: View, config: Config) -> Float32:
    """Class maps with background (1 - max)^6, spread by a random walk along the graph's edges: (1 + K, H, W)."""
    task, graph, maps = view.task, view.graph, view.task.seeds.maps
    if maps is None:
        raise ValueError(f"{task.item.sample_id}: expected class maps, found none")
    stack = torch.from_numpy(np.concatenate([np.clip(1 - maps.max(axis=0, keepdims=True), 0, 1) ** 6, maps]))
    if config.walk == "raw":
        return _raw(view, stack.float())
    cells = F.interpolate(stack[None].float(), size=graph.grid, mode="area")[0]
    spread = torch.from_numpy(random_walk(graph.affinity, cells.numpy()))
    size = (task.item.image.shape[0], task.item.image.shape[1])
    logits = (spread / spread.sum(dim=0).clamp(min=1e-7)).clamp(min=1e-7).log()
    return enlarge(logits, view.image, size, config.cells)


def _raw(view: View, stack: torch.Tensor) -> Float32:
    """The walk as released: zeros beyond the image, mean of each cell, values as the walk leaves them."""
    image, grid = view.image, view.graph.grid
    maps = stack[None]
    if tuple(maps.shape[2:]) != image.shape[:2]:
        maps = F.interpolate(maps, size=image.shape[:2], mode="bilinear", align_corners=False)
    cells = F.avg_pool2d(F.pad(maps, padding(image)), 8)[0]
    spread = torch.from_numpy(random_walk(view.graph.affinity, cells.numpy()))
    size = (view.task.item.image.shape[0], view.task.item.image.shape[1])
    full = F.interpolate(spread[None], size=[8 * side for side in grid], mode="bilinear", align_corners=False)
    return resized(full[..., : image.shape[0], : image.shape[1]], size)
