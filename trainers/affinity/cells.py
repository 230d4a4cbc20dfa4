"""What the affinity network learns from, on the grid of cells; through a frozen encoder, each view is encoded once."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.trainers.affinity.model import AffinityNet, Cells
from maskmill.trainers.affinity.pairs import colour_kernel
from maskmill.trainers.engine import IMAGENET_MEAN, IMAGENET_STD, SampleSource, SegmentationView
from maskmill.trainers.engine.batches import Batch, Item, collate
from maskmill.trainers.engine.device import autocast
from maskmill.trainers.engine.remembered import Remembered
from maskmill.trainers.engine.samples import Samples

KEPT = 512  # encoded views in memory; about half a megabyte each


def cell_targets(
    batch: Batch, grid: tuple[int, int], radius: int, cells: Cells = "area"
) -> tuple[Tensor, Tensor, Tensor]:
    """Seeds int64 (B, h, w), cells inside the real image bool (B, h, w), and the colour kernel of pairs, of a batch of
    `SegmentationView`.

    `area`: labels of the cells' middle pixels, mean colours. `released`: labels of their first pixels (as OpenCV's
    nearest), colours between the four pixels in their middle (bilinear).
    """
    nearest = "nearest" if cells == "released" else "nearest-exact"
    labels = F.interpolate(batch["mask"][:, None].float(), grid, mode=nearest)[:, 0].long()
    valid = F.interpolate(batch["valid"][:, None].float(), grid, mode=nearest)[:, 0] > 0
    mean, std = (torch.tensor(v, device=labels.device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    rgb = cell_colours((batch["rgb"].float() / 255 - mean) / std, grid, cells)
    return labels, valid, colour_kernel(rgb, radius)


def cell_colours(pixels: Tensor, grid: tuple[int, int], cells: Cells) -> Tensor:
    """Colours (B, 3, h, w) of the cells of normalised images (B, 3, H, W)."""
    if cells == "released":
        return F.interpolate(pixels, size=grid, mode="bilinear", align_corners=False)
    return F.interpolate(pixels, size=grid, mode="area")


class EncodedSource(SampleSource):
    """Batches of encoded views: `levels` {"0": float16 (B, c, h, w), ...}, `labels`, `valid`, `kernel`, `sample_id`.

    A sample is seen in `views` augmented views, drawn as in the first epochs, in turns: what a frozen encoder says of a
    view never changes, so it is asked once.
    """

    def __init__(
        self,
        samples: Samples,
        view: SegmentationView,
        batch: int,
        seed: int,
        *,
        views: int,
        model: AffinityNet,
        radius: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(samples, view, batch, seed)
        self.views, self.model, self.radius, self.device, self.dtype = views, model, radius, device, dtype
        self._encoded = Remembered(self._encode, KEPT)

    def __call__(self, step: int) -> Batch:
        return collate([self._encoded(position, epoch % self.views) for position, epoch in self.plan(step)])

    @torch.no_grad()
    def _encode(self, position: int, epoch: int) -> Item:
        batch = collate([self._item(position, epoch)])
        image = batch["image"].to(self.device, memory_format=torch.channels_last)
        with autocast(self.device, self.dtype):
            levels = self.model.encode(image)
        grid = (int(levels[0].shape[2]), int(levels[0].shape[3]))
        labels, valid, kernel = cell_targets(batch, grid, self.radius, self.model.cells)
        item: dict[str, Any] = {f"level{n}": level[0].half().cpu() for n, level in enumerate(levels)}
        return {**item, "labels": labels[0], "valid": valid[0], "kernel": kernel[0], "sample_id": batch["sample_id"][0]}


def encoded_levels(batch: Batch) -> list[Tensor]:
    """The levels in a batch of `EncodedSource`, finest first."""
    return [batch[key].float() for key in sorted(k for k in batch if k.startswith("level"))]
