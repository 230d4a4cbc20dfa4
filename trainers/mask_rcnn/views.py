"""Crops with their objects: masks and boxes of each, as Mask R-CNN's losses take them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import Instance, LabelSpace
from maskmill.trainers.engine import (
    AugmentConfig,
    Example,
    Geometry,
    Item,
    Rgb,
    Samples,
    SampleSource,
    draw_geometry,
    jitter_colours,
    normalise,
    sample_rng,
)
from maskmill.trainers.engine.batches import fill_colour

LEAST = 4  # pixels of an object in a crop; fewer are not learnt from


class ObjectSource(SampleSource):
    """Batches of crops with at most `slots` objects each, the largest first.

    Keys: `image` float32 (B, 3, S, S) in [0, 1]; `objects` uint8 (B, slots, S, S); `boxes` float32 (B, slots, 4)
    x0, y0, x1, y1; `labels` int64 (B, slots), from 1 in the order of the label space, 0 in empty slots.
    """

    def __init__(
        self, samples: Samples, space: LabelSpace, augment: AugmentConfig, slots: int, mean: Rgb, batch: int, seed: int
    ) -> None:
        super().__init__(samples, _without_objects, batch, seed)
        self.channels = {class_id: number for number, class_id in enumerate(space.ids, start=1)}
        self.augment, self.slots, self.fill = augment, slots, fill_colour(mean)

    def _item(self, position: int, epoch: int) -> Item:
        rng = sample_rng(self.seed, self.samples.ids[position], epoch)
        return self.item(self.samples.example(position), known_objects(self.samples, position), rng)

    def item(self, example: Example, objects: Sequence[Instance], rng: np.random.Generator) -> Item:
        """One crop with its objects."""
        geometry = draw_geometry(rng, example.info.height, example.info.width, self.augment)
        rgb = jitter_colours(rng, geometry.image(example.image, fill=self.fill), self.augment)
        masks = np.zeros((self.slots, self.augment.size, self.augment.size), np.uint8)
        boxes, labels = np.zeros((self.slots, 4), np.float32), np.zeros(self.slots, np.int64)
        for slot, (label, mask) in enumerate(self._shown(objects, geometry)[: self.slots]):
            masks[slot], boxes[slot], labels[slot] = mask, tight_box(mask), label
        return {
            "image": normalise(rgb, (0, 0, 0), (1, 1, 1)),  # the network brings its own mean
            "objects": torch.from_numpy(masks),
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
            "sample_id": example.info.sample_id,
        }

    def _shown(self, objects: Sequence[Instance], geometry: Geometry) -> list[tuple[int, NDArray[np.bool_]]]:
        shown = []
        for one in objects:
            if one.runs is not None and not one.crowd and one.class_id in self.channels:
                mask = geometry.label(one.runs.draw().astype(np.uint8), fill=0) > 0
                if mask.sum() >= LEAST:
                    shown.append((self.channels[one.class_id], mask))
        return sorted(shown, key=lambda pair: -int(pair[1].sum()))


def _without_objects(example: Example, rng: np.random.Generator) -> Item:
    raise NotImplementedError("objects belong to a position: `_item` draws them")


def known_objects(samples: Samples, position: int) -> tuple[Instance, ...]:
    """The objects of a sample.

    Raises:
        ValueError: nobody told them apart.
    """
    found = samples.instances(position)
    if found is None:
        raise ValueError(
            f"{samples.ids[position]}: expected objects that are told apart (column `instances`), found none; ingest a "
            "source that has them (coco, voc with SegmentationObject), or label with boxes (a2gnn)"
        )
    return found


def tight_box(mask: NDArray[Any]) -> NDArray[np.float32]:
    """x0, y0, x1, y1 around a mask (H, W) with at least one pixel; ends are past the last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
