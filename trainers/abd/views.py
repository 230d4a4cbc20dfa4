"""Two aligned views of a slice: one geometry for both, then holes and colours for the strong one alone."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.trainers.abd.config import Config
from maskmill.trainers.engine import (
    AugmentConfig,
    Example,
    Geometry,
    Item,
    Remembered,
    Rgb,
    Samples,
    SampleSource,
    draw_geometry,
    fitted_size,
    jitter_colours,
    normalise,
    resize_image,
    sample_rng,
)

CACHED_PIXELS = 64_000_000
HOLE_AREA = (0.02, 0.4)
HOLE_ASPECT = (0.3, 1 / 0.3)
BLACK = (0, 0, 0)


class TwoViews:
    """Keys: `weak`, `strong` float32 (3, S, S), pixel on pixel; `mask`, `mask_strong` int64 (S, S), which differ in
    the hole alone; `hole` bool (S, S); `sample_id`. Without a mask both are 255.

    Beyond the image's border lies black, labelled as background: air, as around a scan.
    """

    def __init__(self, config: Config, mean: Rgb, std: Rgb, background: int, *, with_mask: bool) -> None:
        self.config, self.mean, self.std = config, mean, std
        self.background, self.with_mask = background, with_mask
        self.colours = AugmentConfig(size=config.augment.size, brightness=config.jitter, contrast=config.jitter)

    def prepared(self, example: Example) -> Example:
        """The example as it may be kept: its image no larger than the largest that a crop is taken from."""
        config = self.config.augment
        if self.config.geometry == "released" or config.fit == "native":
            return example
        size = fitted_size(example.info.height, example.info.width, config.fit, config.size, config.scale[1])
        if size[0] >= example.image.shape[0] or size[1] >= example.image.shape[1]:
            return example
        return replace(example, image=resize_image(example.image, *size))

    def __call__(self, example: Example, rng: np.random.Generator) -> Item:
        mask = example.mask if self.with_mask else None
        weak, label = self._geometry(self.prepared(example), mask, rng)
        weak = jitter_colours(rng, weak, self.config.augment)
        strong, label_strong, hole = weak, label, np.zeros(label.shape, bool)
        if self.config.strong_view:
            hole = draw_hole(rng, label.shape[0], label.shape[1], self.config.cutout)
            fill = self.background if self.config.hole_label == "background" else IGNORE
            label_strong = np.where(hole & (mask is not None), np.uint8(fill), label)
            strong = punch(weak, hole, rng) if self.config.cutout_image else weak
            strong = jitter_colours(rng, strong, self.colours)
        plain = normalise(weak, self.mean, self.std)
        return {
            "weak": plain,
            "strong": normalise(strong, self.mean, self.std) if self.config.strong_view else plain,
            "mask": torch.from_numpy(label).long(),
            "mask_strong": torch.from_numpy(label_strong).long(),
            "hole": torch.from_numpy(hole & self.config.cutout_image),
            "sample_id": example.info.sample_id,
        }

    def _geometry(
        self, example: Example, mask: Uint8Array | None, rng: np.random.Generator
    ) -> tuple[NDArray[Any], Uint8Array]:
        """Image and label under one geometry. Without a mask the label is 255."""
        height, width, config = example.info.height, example.info.width, self.config.augment
        if self.config.geometry == "released":
            blank = np.full((height, width), IGNORE, np.uint8)
            return released_geometry(example.image, blank if mask is None else mask, config.size, self.background, rng)
        geometry = draw_geometry(rng, height, width, config)
        image = warp(geometry, example.image, BLACK, cv2.INTER_LINEAR)
        if mask is None:
            return image, np.full(image.shape[:2], IGNORE, np.uint8)
        return image, warp(geometry, mask, (self.background,) * 3, cv2.INTER_NEAREST)


def warp(geometry: Geometry, pixels: NDArray[Any], fill: tuple[int, ...], how: int) -> NDArray[Any]:
    """`Geometry.apply` by one resampling: uint8 or float32 (H, W[, 3]), at any resolution of the same field, to
    (S, S[, 3]).
    """
    down, across = geometry.height / pixels.shape[0], geometry.width / pixels.shape[1]
    resize = np.array([[across, 0, 0.5 * across - 0.5], [0, down, 0.5 * down - 0.5], [0, 0, 1]])
    middle = ((geometry.width - 1) / 2, (geometry.height - 1) / 2)
    moved = cv2.getRotationMatrix2D(middle, geometry.angle, 1.0) @ resize
    moved -= [[0, 0, geometry.left], [0, 0, geometry.top]]
    if geometry.flip and not geometry.turns:
        moved[0] = [0, 0, geometry.size - 1] - moved[0]
    out = cv2.warpAffine(pixels, moved, (geometry.size, geometry.size), flags=how, borderValue=fill)
    if geometry.turns:
        out = np.rot90(out, geometry.turns)
        out = np.ascontiguousarray(out[:, ::-1] if geometry.flip else out)
    return out.astype(pixels.dtype, copy=False)


class DecodedSource(SampleSource):
    """A `SampleSource` that keeps decoded slices as long as they are few: decoding costs more than a small step."""

    def __init__(self, samples: Samples, view: TwoViews, batch: int, seed: int) -> None:
        super().__init__(samples, view, batch, seed)
        self._two = view
        pixels = max(info.height * info.width for info in samples.infos)
        self._example = Remembered(self._prepared, CACHED_PIXELS // pixels)
        self._ids = samples.ids

    def _prepared(self, position: int) -> Example:
        return self._two.prepared(self.samples.example(position))

    def _item(self, position: int, epoch: int) -> Item:
        return self.view(self._example(position), sample_rng(self.seed, self._ids[position], epoch))


def zoom_nearest(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Nearest neighbour of (H, W[, C]) on a grid whose first and last pixels are those of the source, as SciPy's `zoom`
    of order 0: the pixel nearest to i (n - 1) / (m - 1), the higher one of two as near.
    """
    rows, columns = (
        np.floor(np.arange(new) * ((old - 1) / max(new - 1, 1)) + 0.5).astype(int)
        for old, new in zip(pixels.shape, (height, width), strict=False)
    )
    zoomed: NDArray[Any] = pixels[rows][:, columns]
    return zoomed


def released_geometry(
    image: NDArray[Any], mask: Uint8Array, size: int, background: int, rng: np.random.Generator
) -> tuple[NDArray[Any], Uint8Array]:
    """Half of the time a quarter turn and a flip, a quarter of the time -20 to 19 degrees, else nothing; then nearest
    neighbour to `size` x `size` as in the release (SciPy's grid).
    """
    kind, turns, axis, angle = rng.random(2), int(rng.integers(4)), int(rng.integers(2)), int(rng.integers(-20, 20))
    out: list[NDArray[Any]] = []
    for pixels, fill in ((image, BLACK), (mask, (background,) * 3)):
        if kind[0] < 0.5:
            pixels = np.ascontiguousarray(np.flip(np.rot90(pixels, turns), axis))
        elif kind[1] < 0.5:
            height, width = pixels.shape[:2]
            turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
            turned = cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_NEAREST, borderValue=fill)
            pixels = turned.astype(pixels.dtype)
        out.append(np.ascontiguousarray(zoom_nearest(pixels, size, size)))
    return out[0], out[1]


def draw_hole(rng: np.random.Generator, height: int, width: int, chance: float) -> NDArray[np.bool_]:
    """Bool (H, W): true inside a random rectangle, drawn with probability `chance`."""
    hole = np.zeros((height, width), bool)
    if rng.random() >= chance:
        return hole
    while True:  # until one fits: soon, as the area is at most 0.4
        area, aspect = rng.uniform(*HOLE_AREA) * height * width, rng.uniform(*HOLE_ASPECT)
        tall, wide = int(np.sqrt(area * aspect)), int(np.sqrt(area / aspect))
        top, left = int(rng.integers(height)), int(rng.integers(width))
        if top + tall <= height and left + wide <= width:
            hole[top : top + tall, left : left + wide] = True
            return hole


def punch(image: NDArray[Any], hole: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[Any]:
    """The image (H, W, 3), uint8 or float32 of 0..255, with black and white noise in the hole, the same in all
    channels.
    """
    noise = 255 * rng.integers(0, 2, hole.shape, dtype=np.uint8)
    return np.where(hole[..., None], noise[..., None], image)
