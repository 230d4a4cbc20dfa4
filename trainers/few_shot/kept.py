"""What is kept of images between episodes: frozen features, CLIP's views and prior maps, by key."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from maskmill.data_contracts import Uint8Array
from maskmill.trainers.few_shot.priors import ClipView


@dataclass(frozen=True, eq=False)
class Levels:
    """What the encoder sees: `middle` (C, h, w), which the decoder takes; `high` (D, h', w') for the plain prior."""

    middle: Tensor
    high: Tensor

    @property
    def nbytes(self) -> int:
        return _bytes(self.middle, self.high)


@dataclass(frozen=True, eq=False)
class TextView:
    """What CLIP sees, and the class maps (h, w) that were asked for so far, by the texts that competed."""

    view: ClipView
    maps: dict[tuple[str, ...], Tensor]

    @property
    def nbytes(self) -> int:
        dense = self.view.dense
        return _bytes(self.view.blocks, self.view.deep, *(() if dense is None else (dense.last_input, dense.attention)))


@dataclass(frozen=True, eq=False)
class Maps:
    """The prior maps (P, h, w) of one query by its supports."""

    maps: Tensor

    @property
    def nbytes(self) -> int:
        return _bytes(self.maps)


@dataclass(frozen=True, eq=False)
class Features:
    """One image: the encoder's levels, CLIP's view for PI-CLIP's priors, and the key under which they are kept."""

    levels: Levels
    clip: TextView | None
    key: str | None = None

    @property
    def middle(self) -> Tensor:
        return self.levels.middle

    @property
    def high(self) -> Tensor:
        return self.levels.high


@dataclass(frozen=True, eq=False)
class Shot:
    """A support: its features, its mask (H, W) of 0, 1, 255 at the image's own size (`canvas_masks`: at the canvas'),
    and at the network's grid.
    """

    features: Features
    mask: Uint8Array
    grid_mask: Tensor  # (1, h, w)

    @property
    def object_mask(self) -> Tensor:
        """1 on the object, float32 (1, H, W), on the device of the features."""
        return torch.from_numpy((self.mask == 1).astype(np.float32))[None].to(self.grid_mask.device)


Kept = TypeVar("Kept", Levels, TextView, Maps)


class FeatureCache:
    """Features by key, the least used dropped beyond so many MiB. Safe to call from several threads."""

    def __init__(self, capacity_mb: int) -> None:
        self.capacity, self.size = capacity_mb * 2**20, 0
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled empty: a data process fills its own."""
        return FeatureCache, (self.capacity // 2**20,)

    def get(self, key: str, make: Callable[[], Kept]) -> Kept:
        """What is kept under `key`, made now where nothing is."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: Kept = self._kept[key]
                return found
        made = make()
        with self._lock:
            if key not in self._kept and made.nbytes <= self.capacity:
                self._kept[key] = made
                self.size += made.nbytes
            while self.size > self.capacity:
                self.size -= self._kept.popitem(last=False)[1].nbytes
        return made


@functools.cache
def shared_cache(capacity_mb: int) -> FeatureCache:
    return FeatureCache(capacity_mb)


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
