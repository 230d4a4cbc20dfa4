"""Batches as pure functions of the step: a source is called with a step number and answers with that step's batch.

Which samples a batch holds and how each is augmented follows from (seed, epoch, sample_id) alone, so a run that was
killed goes on with the very batches that it would have seen, and neither shards nor data processes change anything.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from maskmill.data_contracts import IGNORE, sample_seed
from maskmill.trainers.engine.augment import AugmentConfig, centre_geometry, draw_geometry, jitter_colours
from maskmill.trainers.engine.remembered import Remembered
from maskmill.trainers.engine.samples import Example, Samples

Item = dict[str, Any]  # one sample: tensors, strings, numbers
Batch = dict[str, Any]  # tensors with a batch axis, lists of the rest; may nest
Source = Callable[[int], Batch]
View = Callable[[Example, np.random.Generator], Item]

Rgb = tuple[float, float, float]
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)


class SegmentationView:
    """The usual view of an example.

    Keys: `image` float32 (3, S, S), jittered and normalised; `rgb` uint8 (3, S, S), the same pixels before jitter
    (for kernels and other encoders); `mask` int64 (S, S), 255 where ignored, padded or absent; `valid` bool (S, S),
    false on padding;
    `tags` float32
    (classes,), 1 for each image tag; `sample_id`. With `extras`: `scribble` int64 and `confidence` float32 in [0, 1].
    """

    def __init__(
        self,
        augment: AugmentConfig,
        mean: Rgb,
        std: Rgb,
        classes: int,
        *,
        random: bool = True,
        extras: tuple[Literal["scribble", "confidence"], ...] = (),
    ) -> None:
        self.augment, self.mean, self.std, self.classes = augment, mean, std, classes
        self.random, self.extras = random, extras

    def __call__(self, example: Example, rng: np.random.Generator) -> Item:
        height, width = example.image.shape[:2]
        geometry = (
            draw_geometry(rng, height, width, self.augment)
            if self.random
            else centre_geometry(height, width, self.augment)
        )
        rgb = geometry.image(example.image, fill=fill_colour(self.mean))
        blank = np.full((height, width), IGNORE, np.uint8)
        mask = geometry.label(blank if example.mask is None else example.mask)
        valid = geometry.label(np.ones((height, width), np.uint8), fill=0)
        tags = torch.zeros(self.classes)
        tags[list(example.info.class_ids)] = 1.0
        item: Item = {
            "image": normalise(jitter_colours(rng, rgb, self.augment) if self.random else rgb, self.mean, self.std),
            "rgb": torch.from_numpy(rgb).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(mask).long(),
            "valid": torch.from_numpy(valid).bool(),
            "tags": tags,
            "sample_id": example.info.sample_id,
        }
        if "scribble" in self.extras:
            scribble = blank if example.scribble is None else example.scribble
            item["scribble"] = torch.from_numpy(geometry.label(scribble)).long()
        if "confidence" in self.extras:
            confidence = blank if example.confidence is None else example.confidence
            item["confidence"] = torch.from_numpy(geometry.label(confidence, fill=0)).float() / 255
        return item


def fill_colour(mean: Rgb) -> tuple[int, int, int]:
    """The colour that becomes zero when normalised, rounded to uint8."""
    red, green, blue = (round(255 * channel) for channel in mean)
    return red, green, blue


def normalise(image: np.ndarray[Any, np.dtype[Any]], mean: Rgb, std: Rgb) -> torch.Tensor:
    """uint8 or float32 (H, W, 3) of 0..255 to float32 (3, H, W): (x / 255 - mean) / std."""
    scaled = (image.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


def collate(items: Sequence[Item]) -> Batch:
    """Stack tensors, turn numbers into tensors, list the rest. All items must have the same keys."""
    batch: Batch = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if isinstance(first, torch.Tensor):
            batch[key] = torch.stack(values)
        elif isinstance(first, (int, float)):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    return batch


def shuffled(keys: Sequence[str], seed: int, epoch: int) -> list[int]:
    """Positions of `keys` in an order that depends on the keys themselves, not on the order in which they came."""
    return sorted(range(len(keys)), key=lambda position: sample_seed(seed, keys[position], f"order {epoch}"))


def sample_rng(seed: int, sample_id: str, epoch: int) -> np.random.Generator:
    """The generator of one sample's augmentation in one epoch."""
    return np.random.default_rng(sample_seed(seed, sample_id, f"augment {epoch}"))


class SampleSource:
    """Shuffled passes over all samples. Batches are always full: one may end a pass and begin the next."""

    def __init__(self, samples: Samples, view: View, batch: int, seed: int) -> None:
        if not len(samples):
            raise ValueError(f"{samples.config.samples}: no sample is left to train on ({samples.counts})")
        self.samples, self.view, self.batch, self.seed = samples, view, batch, seed
        self._order = Remembered(functools.partial(shuffled, samples.ids, seed), 2)

    def plan(self, step: int) -> list[tuple[int, int]]:
        """(position, epoch) of each sample of the batch."""
        numbers = range(step * self.batch, (step + 1) * self.batch)
        size = len(self.samples)
        return [(self._order(number // size)[number % size], number // size) for number in numbers]

    def __call__(self, step: int) -> Batch:
        return collate([self._item(position, epoch) for position, epoch in self.plan(step)])

    def _item(self, position: int, epoch: int) -> Item:
        rng = sample_rng(self.seed, self.samples.ids[position], epoch)
        return self.view(self.samples.example(position), rng)


class GroupSource:
    """Whole groups (co-saliency sets, clips, volumes): `groups` of them a batch, at most `members` samples of each.

    `pick` says which: `random` draws without replacement, `consecutive` takes neighbours in `index`. The batch is
    flat; `group` int64 (N,) numbers the group of each sample from 0, and groups may differ in size.
    """

    def __init__(
        self,
        samples: Samples,
        view: View,
        groups: int,
        members: int,
        seed: int,
        *,
        pick: Literal["random", "consecutive"] = "random",
    ) -> None:
        self.names = list(samples.groups)
        if not self.names:
            raise ValueError(
                f"{samples.config.samples}: expected samples with a `group`, found none among {len(samples)}"
            )
        self.samples, self.view, self.groups, self.members = samples, view, groups, members
        self.seed, self.pick = seed, pick
        self._order = Remembered(functools.partial(shuffled, self.names, seed), 2)

    def plan(self, step: int) -> list[tuple[list[int], int]]:
        """(positions, epoch) of each group of the batch."""
        numbers = range(step * self.groups, (step + 1) * self.groups)
        size = len(self.names)
        return [
            (self._members(self.names[self._order(number // size)[number % size]], number // size), number // size)
            for number in numbers
        ]

    def _members(self, name: str, epoch: int) -> list[int]:
        positions = self.samples.groups[name]
        count = min(self.members, len(positions))
        rng = np.random.default_rng(sample_seed(self.seed, name, f"members {epoch}"))
        if self.pick == "consecutive":
            start = int(rng.integers(len(positions) - count + 1))
            return positions[start : start + count]
        return [positions[i] for i in sorted(rng.choice(len(positions), count, replace=False))]

    def __call__(self, step: int) -> Batch:
        items = []
        for number, (positions, epoch) in enumerate(self.plan(step)):
            for position in positions:
                rng = sample_rng(self.seed, self.samples.ids[position], epoch)
                items.append({**self.view(self.samples.example(position), rng), "group": number})
        return collate(items)


class JointSource:
    """Several sources side by side: the batch is a dict of their batches, e.g. `labelled` and `unlabelled`."""

    def __init__(self, **sources: Source) -> None:
        self.sources = sources

    def __call__(self, step: int) -> Batch:
        return {name: source(step) for name, source in self.sources.items()}


class _Steps(Dataset[Batch]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, step: int) -> Batch:
        return self.source(step)


def prefetch(source: Source, start: int, stop: int, workers: int = 0, ahead: int = 2) -> Iterator[Batch]:
    """Batches of steps start..stop-1, in order, prepared ahead by one thread (workers = 0) or by data processes."""
    if workers > 0:
        steps: Any = range(start, stop)
        yield from DataLoader(
            _Steps(source),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=ahead,
            multiprocessing_context="spawn",  # a fork beside torch's, Arrow's or a server's threads may hang or die
        )
        return
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting: list[Future[Batch]] = [pool.submit(source, step) for step in range(start, min(start + ahead, stop))]
        try:
            for step in range(start, stop):
                batch = waiting.pop(0).result()
                if step + ahead < stop:
                    waiting.append(pool.submit(source, step + ahead))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Every tensor of the batch, nested ones too, on `device`."""
    if device.type == "cpu":
        return batch
    moved: Batch = {}
    for key, value in batch.items():
        if isinstance(value, torch.Tensor):
            value = value.pin_memory() if device.type == "cuda" and not value.is_pinned() else value
            moved[key] = value.to(device, non_blocking=True)
        else:
            moved[key] = to_device(value, device) if isinstance(value, dict) else value
    return moved
