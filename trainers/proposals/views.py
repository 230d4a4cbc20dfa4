"""Training pairs: two crops that show one object, as a search region would, with all objects in them.

Every id of a mask but the background and 255 is one object. Clips give two of their frames, lone images two crops.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import IGNORE, Uint8Array, sample_seed
from maskmill.trainers.engine import (
    AugmentConfig,
    Batch,
    Example,
    Item,
    Rgb,
    Samples,
    collate,
    jitter_colours,
    normalise,
    shuffled,
)
from maskmill.vision.instances import GRAIN
from maskmill.vision.video.masks import Boxes

SLOTS = 6  # objects of a crop that are kept, largest first


class CropConfig(BaseModel):
    """How the crops of training are drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: int = Field(default=128, ge=32, multiple_of=32, description="of a crop in pixels, a multiple of 32")
    grow: tuple[float, float] = Field(default=(0.1, 1.3), description="range by which the box grows on each side")
    shift: float = Field(default=0.25, ge=0, description="of the centre, in box sides")
    span: int = Field(default=12, ge=1, description="largest distance of the two frames of a clip, in frames kept")
    colours: AugmentConfig = Field(
        default=AugmentConfig(flip=0.5, brightness=0.25, contrast=0.25, saturation=0.3, hue=0.03, grey=0.03),
        description="flip and colours of the crops",
    )


class PairSource:
    """Batches of `pairs` pairs, flat: crops 2i and 2i + 1 show the same object.

    Keys: `image` float32 (B, 3, S, S); `objects` float32 (B, SLOTS, S/4, S/4) shares of each prototype pixel, zero in
    empty slots; `boxes` float32 (B, SLOTS, 4); `shown` bool (B, SLOTS); `judged` float32 (B, S/4, S/4), 0 on void and
    padding. Slot 0 is the object that the crop was made for.
    """

    def __init__(
        self, samples: Samples, config: CropConfig, mean: Rgb, std: Rgb, pairs: int, seed: int, background: int | None
    ) -> None:
        self.samples, self.config, self.mean, self.std = samples, config, mean, std
        self.pairs, self.seed, self.background = pairs, seed, background
        self.units = _units(samples)
        self._names = [samples.ids[unit[0]] + f"/{number}" for number, unit in enumerate(self.units)]

    def __call__(self, step: int) -> Batch:
        size, items = len(self.units), []
        for number in range(step * self.pairs, (step + 1) * self.pairs):
            epoch, place = divmod(number, size)
            unit = self.units[shuffled(self._names, self.seed, epoch)[place]]
            rng = np.random.default_rng(sample_seed(self.seed, str(number), "pair"))
            items += self._pair(unit, rng)
        return collate(items)

    def _pair(self, unit: list[int], rng: np.random.Generator) -> list[Item]:
        first = int(rng.integers(len(unit)))
        near = [i for i in range(len(unit)) if abs(i - first) <= self.config.span]
        examples = [self.samples.example(unit[i]) for i in (first, near[int(rng.integers(len(near)))])]
        ids = [_ids(example, self.background) for example in examples]
        common = sorted(set(ids[0]) & set(ids[1]))
        if not common:
            examples, common = [examples[0]] * 2, sorted(ids[0])
        wanted = common[int(rng.integers(len(common)))] if common else None
        return [self._crop(example, wanted, rng) for example in examples]

    def _crop(self, example: Example, wanted: int | None, rng: np.random.Generator) -> Item:
        mask = example.mask if example.mask is not None else np.full(example.image.shape[:2], IGNORE, np.uint8)
        box = _box(mask == wanted) if wanted is not None else np.array([0, 0, *mask.shape[::-1]], np.float32)
        top, left, height, width = draw_crop(box, mask.shape, self.config, rng)
        image, mask = (
            example.image[top : top + height, left : left + width],
            mask[top : top + height, left : left + width],
        )
        if rng.random() < self.config.colours.flip:
            image, mask = image[:, ::-1], mask[:, ::-1]
        side = self.config.side
        image, valid = _fit(np.ascontiguousarray(image), side), np.zeros((side, side), np.float32)
        scale = side / max(height, width)
        valid[: round(height * scale), : round(width * scale)] = 1
        pixels = normalise(jitter_colours(rng, image, self.config.colours), self.mean, self.std) * torch.from_numpy(
            valid
        )
        void = _fit(np.ascontiguousarray((mask == IGNORE).astype(np.uint8) * 255), side) > 127
        objects = _objects(mask, wanted, side, _ids_of(mask, self.background))
        return {
            "image": pixels,
            **objects,
            "judged": torch.from_numpy(_grain(valid * ~void)),
            "sample_id": example.info.sample_id,
        }


def _units(samples: Samples) -> list[list[int]]:
    """Positions that belong together: a clip counts once for every four frames, a lone image once."""
    units = [frames for frames in samples.groups.values() for _ in range(-(-len(frames) // 4))]
    return units + [[position] for position, info in enumerate(samples.infos) if info.group is None]


def _ids(example: Example, background: int | None) -> list[int]:
    return [] if example.mask is None else _ids_of(example.mask, background)


def _ids_of(mask: Uint8Array, background: int | None) -> list[int]:
    counts = np.bincount(mask.ravel(), minlength=256)
    return [int(i) for i in np.flatnonzero(counts >= 16) if i not in (background, IGNORE)]


def _box(mask: NDArray[np.bool_]) -> Boxes:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def draw_crop(
    box: Boxes, frame: tuple[int, ...], config: CropConfig, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """top, left, height, width of a random crop around a box: a square, cut short where the frame ends."""
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    ratio = float(np.exp(rng.uniform(*np.log(config.grow))))
    side = max(16.0, max(width, height) * (1 + 2 * ratio))
    spans = []
    for low, high, limit in ((box[1], box[3], frame[0]), (box[0], box[2], frame[1])):
        length = min(round(side), limit)
        centre = (low + high) / 2 + rng.uniform(-1, 1) * config.shift * (high - low)
        spans.append((int(np.clip(round(centre - length / 2), 0, limit - length)), length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _fit(pixels: Any, side: int) -> Any:
    """Long side to `side`, then zeros to the right and below."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    out = np.zeros((side, side, *pixels.shape[2:]), pixels.dtype)
    out[: size[1], : size[0]] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return out


def _grain(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Mean of each GRAIN x GRAIN block."""
    side = pixels.shape[0] // GRAIN
    blocks: NDArray[np.float32] = pixels.reshape(side, GRAIN, side, GRAIN).mean((1, 3)).astype(np.float32)
    return blocks


def _objects(mask: Uint8Array, wanted: int | None, side: int, ids: list[int]) -> Item:
    areas = np.bincount(mask.ravel(), minlength=256)
    order = sorted(ids, key=lambda i: (i != wanted, -areas[i]))[:SLOTS]
    shares = np.zeros((SLOTS, side // GRAIN, side // GRAIN), np.float32)
    boxes, shown = np.zeros((SLOTS, 4), np.float32), np.zeros(SLOTS, np.bool_)
    scale = side / max(mask.shape)
    for slot, number in enumerate(order):
        one = mask == number
        shares[slot] = _grain(_fit(one.astype(np.uint8) * 255, side) / 255)
        boxes[slot], shown[slot] = _box(one) * scale, True
    return {"objects": torch.from_numpy(shares), "boxes": torch.from_numpy(boxes), "shown": torch.from_numpy(shown)}
