"""Crops with their scribbles. A stroke goes through the resize by agreement of pixels, never by interpolation."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.trainers.engine import (
    AugmentConfig,
    Example,
    Geometry,
    Item,
    Rgb,
    Samples,
    draw_geometry,
    jitter_colours,
    normalise,
)
from maskmill.trainers.engine.batches import fill_colour
from maskmill.vision.scribbles import resize_scribble
from maskmill.vision.scribbles.maps import Resize

Supervision = Literal["scribbles", "masks"]


class ScribbleView:
    """Keys: `image` float32 (3, S, S), jittered and normalised; `plain`, the same pixels before the jitter (for
    kernels); `labels` int64 (S, S), class ids on strokes (everywhere with `supervision` masks), else 255; `valid` bool
    (S, S), false on padding, which is not the same as unlabelled; `sample_id`.
    """

    def __init__(
        self, augment: AugmentConfig, mean: Rgb, std: Rgb, supervision: Supervision, resize: Resize = "any"
    ) -> None:
        self.augment, self.mean, self.std = augment, mean, std
        self.supervision, self.resize = supervision, resize

    def __call__(self, example: Example, rng: np.random.Generator) -> Item:
        height, width = example.image.shape[:2]
        geometry = draw_geometry(rng, height, width, self.augment)
        rgb = geometry.image(example.image, fill=fill_colour(self.mean))
        valid = geometry.label(np.ones((height, width), np.uint8), fill=0)
        return {
            "image": normalise(jitter_colours(rng, rgb, self.augment), self.mean, self.std),
            "plain": normalise(rgb, self.mean, self.std),
            "labels": torch.from_numpy(self._labels(example, geometry)).long(),
            "valid": torch.from_numpy(valid).bool(),
            "sample_id": example.info.sample_id,
        }

    def _labels(self, example: Example, geometry: Geometry) -> Uint8Array:
        given = example.mask if self.supervision == "masks" else example.scribble
        if given is None:
            given = np.full(example.image.shape[:2], IGNORE, np.uint8)
        if self.supervision == "scribbles":  # then the geometry finds it in its size, and only turns, crops and flips
            given = resize_scribble(given, geometry.height, geometry.width, self.resize)
        return geometry.label(given)


def scribbled(samples: Samples, supervision: Supervision) -> Samples:
    """The samples to train on: those with a scribble, or with `supervision` masks those with a mask. True masks are
    never opened for `scribbles`.

    Raises:
        ValueError: the data names no weak labels, or there is nothing to train on.
    """
    if supervision == "masks":
        return samples.with_masks()
    if not samples.config.weak:
        raise ValueError(
            f"{samples.config.samples}: expected WEAK_LABEL shards with scribbles in `weak`, found none; make them "
            "with `maskmill label read-scribbles`"
        )
    return replace(samples, infos=tuple(replace(info, has_mask=False) for info in samples.infos))
