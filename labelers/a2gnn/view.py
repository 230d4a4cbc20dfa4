"""One image on its way through the labeler: hints, seeds, graph; and how photo, graph and cells meet in size."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array
from maskmill.labelers.a2gnn.boxes import PixelBox
from maskmill.labelers.a2gnn.seeds import Seeds
from maskmill.labelers.base import LabelItem
from maskmill.trainers.affinity import ImageGraph
from maskmill.trainers.affinity.model import Cells
from maskmill.trainers.engine import resize_image

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Task:
    """One image on its way: its hints in pixels, its seeds, and the classes that may occur."""

    item: LabelItem
    boxes: tuple[PixelBox, ...]
    class_ids: tuple[int, ...]  # shown in the image, ascending
    channel_ids: tuple[int, ...]  # of the channels after the background's
    seeds: Seeds
    prompted: Float32 | None = None  # the promptable model's class shares (1 + K, H, W), for class_ids
    free: frozenset[int] = frozenset()  # classes beside boxes that strokes or points alone name: no box holds them

    @property
    def channels(self) -> list[int]:
        """Channels of the background and of the classes that may occur, in the order of `class_ids`."""
        return [0, *(1 + self.channel_ids.index(class_id) for class_id in self.class_ids)]


@dataclass(frozen=True, eq=False)
class View:
    """A task with its graph and the image, `image_side` long at most, that the graph was made of."""

    task: Task
    graph: ImageGraph
    image: Uint8Array
    prior: Float32 | None = None  # class shares (1 + K, H, W) learnt from all images, for the task's classes


def padding(image: Uint8Array) -> tuple[int, int, int, int]:
    return 0, -image.shape[1] % 8, 0, -image.shape[0] % 8


def shrink(image: Uint8Array, side: int | None) -> Uint8Array:
    if side is None or max(image.shape[:2]) <= side:
        return image
    factor = side / max(image.shape[:2])
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    shrunk: Uint8Array = resize_image(image, height, width)
    return shrunk


def to_size(shares: torch.Tensor, image: Uint8Array, size: tuple[int, int]) -> Float32:
    """Shares (K, h, w) of the padded image, at any resolution, to (K, H, W) of `size`."""
    padded = [side + -side % 8 for side in image.shape[:2]]
    full = F.interpolate(shares[None], size=padded, mode="bilinear", align_corners=False)
    return resized(full[..., : image.shape[0], : image.shape[1]], size)


def resized(shares: torch.Tensor, size: tuple[int, int]) -> Float32:
    if tuple(shares.shape[2:]) != size:
        shares = F.interpolate(shares, size=size, mode="bilinear", align_corners=False)
    out: Float32 = shares[0].contiguous().numpy()
    return out


def enlarge(logits: torch.Tensor, image: Uint8Array, size: tuple[int, int], cells: Cells) -> Float32:
    """Logits (K, h, w) to shares (K, H, W): up to the padded image, the padding cut off, softmax, then to `size`;
    or, as released, the padded grid squeezed to `size`, then softmax.
    """
    if cells == "released":
        full = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)
        squeezed: Float32 = full.softmax(dim=1)[0].contiguous().numpy()
        return squeezed
    height, width = image.shape[:2]
    padded = (logits.shape[1] * 8, logits.shape[2] * 8)
    full = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)[..., :height, :width]
    return resized(full.softmax(dim=1), size)
