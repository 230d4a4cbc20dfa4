"""The segmenter of `clean_and_train`: a small network over cells of frozen features, trained and tested in seconds."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.clean_sets import CleanSet
from benchmarks.keep_sets import Photo
from maskmill.curation.cross_fit import CrossFitOptions
from maskmill.curation.cross_fit.features import LARGEST, STEPS, Features, FrozenFeatures
from maskmill.data_contracts import IGNORE, Uint8Array, bytes_hash

HIDDEN = 96
BATCH = 512  # cells of a step
RATE = 2e-3
DROPOUT = 0.1
SCALE = 1 / STEPS  # of the features' whole numbers


class KnownFeatures(FrozenFeatures):
    """Features of images that were read before, found by their pixels; no encoder is loaded."""

    def __init__(self, options: CrossFitOptions, known: dict[str, NDArray[np.int8]]) -> None:
        self.device = "cpu"
        self._side = options.side
        self._known = known
        self._last = 1  # embeddings are not read here
        self.width = next(iter(known.values())).shape[-1]

    @classmethod
    def of_images(
        cls, options: CrossFitOptions, images: Iterable[Uint8Array], features: NDArray[np.int8]
    ) -> "KnownFeatures":
        """Of images and their features (N, P, D)."""
        return cls(options, {bytes_hash(i.tobytes()): own for i, own in zip(images, features, strict=True)})

    def of(self, image: Uint8Array) -> Features:
        return self._known[bytes_hash(image.tobytes())].astype(np.float32)


def kept_features(file: Path, images: Iterable[Uint8Array], frozen: FrozenFeatures) -> NDArray[np.int8]:
    """Features of images, int8 (N, P, D), made once and kept in `file`."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        found = np.stack([frozen.of(image) for image in images])
        with (scratch := file.with_suffix(f".{os.getpid()}")).open("wb") as handle:
            np.save(handle, np.clip(found, -LARGEST, LARGEST).astype(np.int8))
        scratch.replace(file)
    loaded: NDArray[np.int8] = np.load(file, mmap_mode="r")
    return loaded


@dataclass(frozen=True)
class Cells:
    """Photos as cells: `features` int8 (N, P, D); `masks` uint8, each at its photo's size."""

    features: NDArray[np.int8]
    masks: list[Uint8Array]

    @classmethod
    def load(cls, path: Path, photos: Sequence[Photo], frozen: FrozenFeatures) -> "Cells":
        """Features of photos, made once and kept in `path`.npy, with their true masks."""
        masks = [mask for photo in photos if (mask := photo.mask()) is not None]
        return cls(kept_features(path.with_suffix(".npy"), (photo.image() for photo in photos), frozen), masks)

    @property
    def grid(self) -> int:
        """Cells a side."""
        return int(self.features.shape[1] ** 0.5 + 0.5)

    def of(self, places: Sequence[int]) -> "Cells":
        """Some of the photos."""
        return Cells(np.asarray(self.features[list(places)]), [self.masks[i] for i in places])

    def with_masks(self, masks: Sequence[Uint8Array]) -> "Cells":
        """The same photos under other masks."""
        return replace(self, masks=list(masks))

    def labels(self) -> NDArray[np.uint8]:
        """The mask's value in the middle of each cell, (N, P)."""
        size = (self.grid, self.grid)
        return np.stack([cv2.resize(m, size, interpolation=cv2.INTER_NEAREST_EXACT).ravel() for m in self.masks])


class Head(nn.Module):
    """One hidden layer over the features of a cell."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes)
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Logits (…, C) of features (…, D)."""
        found: Tensor = self.layers(cells)
        return found


@dataclass(frozen=True)
class Segmenter:
    """A trained head and the class ids of its outputs."""

    head: Head
    ids: tuple[int, ...]

    @torch.no_grad()
    def logits(self, features: NDArray[np.int8]) -> Tensor:
        """float32 (P, C) of one photo."""
        found: Tensor = self.head(torch.from_numpy(np.asarray(features, dtype=np.float32)) * SCALE)
        return found

    def predict(self, features: NDArray[np.int8], size: tuple[int, int]) -> Uint8Array:
        """uint8 (H, W) of `size`."""
        logits = self.logits(features)
        grid = int(len(logits) ** 0.5 + 0.5)
        maps = F.interpolate(logits.T.reshape(1, -1, grid, grid), size=size, mode="bilinear", align_corners=False)
        found: Uint8Array = np.asarray(self.ids, dtype=np.uint8)[maps[0].argmax(dim=0).numpy()]
        return found


def train(cells: Cells, ids: tuple[int, ...], steps: int, seed: int) -> Segmenter:
    """Train on all cells of some photos; photos count alike, whatever their size. Cells of 255 teach nothing."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 23])
    place = np.full(256, -1, np.int64)
    place[list(ids)] = np.arange(len(ids))
    labels = place[cells.labels()]
    photo, cell = np.nonzero(labels >= 0)
    head = Head(cells.features.shape[-1], len(ids))
    if not len(photo):
        return Segmenter(head.eval(), ids)
    optimiser = torch.optim.Adam(head.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        chosen = rng.integers(0, len(photo), BATCH)
        x = torch.from_numpy(cells.features[photo[chosen], cell[chosen]].astype(np.float32)) * SCALE
        loss = F.cross_entropy(head(x), torch.from_numpy(labels[photo[chosen], cell[chosen]]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return Segmenter(head.eval(), ids)


def train_and_test(cells: Cells, tested: Cells, one: CleanSet, steps: int, seed: int) -> float:
    """mIoU in per cent on the tested photos of a segmenter that was trained on `cells`."""
    return miou(train(cells, one.ids, steps, seed), tested)


def miou(segmenter: Segmenter, tested: Cells) -> float:
    """In per cent, over the classes that the tested masks show, background among them; 255 is left out."""
    counts = np.zeros((256, 256), np.int64)
    for features, mask in zip(tested.features, tested.masks, strict=True):
        height, width = mask.shape
        found = segmenter.predict(features, (height, width))
        counts += np.bincount(mask.ravel().astype(np.int64) * 256 + found.ravel(), minlength=65536).reshape(256, 256)
    counts[IGNORE] = 0
    both, truth = counts.diagonal(), counts.sum(axis=1)
    union = truth + counts.sum(axis=0) - both
    return float(100 * np.mean(both[truth > 0] / union[truth > 0]))
