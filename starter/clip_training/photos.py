"""Photos from folders, spoilt copies of them, and their trunk features on disk."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from maskmill.data_contracts import decode_image
from maskmill.starter.clip_training.teacher import trunk_maps

Spoilt = Literal["scramble", "noise", "blur"]
SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
BATCH = 16


@dataclass(frozen=True)
class PhotoSet:
    """Trunk maps of n photos at one size: `middle` (n, 112, s, s) and `last` (n, 320, s, s), float16 on disk."""

    paths: tuple[Path, ...]
    middle: NDArray[np.float16]
    last: NDArray[np.float16]


def find_photos(folder: Path) -> list[Path]:
    """All photos below `folder`, sorted.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"no photo ({', '.join(sorted(SUFFIXES))}) below {folder}")
    return found


def load_photo(path: Path, side: int) -> Tensor:
    """(3, side, side) in [0, 1], squashed to a square."""
    image = Image.fromarray(decode_image(path.read_bytes(), str(path))).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def spoil(image: Tensor, how: Spoilt, rng: random.Random) -> Tensor:
    """A copy of (3, S, S) whose layout, content or detail is gone."""
    if how == "scramble":
        return _scramble(image, rng.choice((2, 4, 4, 4, 7)), rng)
    if how == "noise":
        return _noise(image, rng)
    return _blur(image, rng.choice((4, 6, 8, 12, 16)) * image.shape[-1] / 224)


def _scramble(image: Tensor, grid: int, rng: random.Random) -> Tensor:
    side = image.shape[-1]
    tile = side // grid
    cut = image[:, : tile * grid, : tile * grid].unfold(1, tile, tile).unfold(2, tile, tile)
    tiles = cut.permute(1, 2, 0, 3, 4).reshape(grid * grid, 3, tile, tile)
    order = list(range(grid * grid))
    rng.shuffle(order)
    rows = tiles[order].reshape(grid, grid, 3, tile, tile).permute(2, 0, 3, 1, 4)
    mixed = rows.reshape(1, 3, tile * grid, tile * grid)
    return functional.interpolate(mixed, (side, side), mode="bilinear")[0]


def _noise(image: Tensor, rng: random.Random) -> Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**30))
    flat = rng.random() < 0.5
    noise = torch.rand(image.shape, generator=generator)
    if not flat:
        noise = torch.randn(image.shape, generator=generator) * 0.25 + 0.5
    return (noise if rng.random() < 0.6 else 0.35 * image + 0.65 * noise).clamp(0, 1)


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(2 * sigma)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma * sigma))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, -1, -1, -1)
    padded = functional.pad(image[None], (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel, groups=3)
    return functional.conv2d(across, kernel.transpose(2, 3), groups=3)[0]


def cached_maps(
    teacher: nn.Module, paths: Sequence[Path], side: int, work: Path, name: str, how: Spoilt | None = None
) -> PhotoSet:
    """Trunk maps of the photos (spoilt where `how` says so), computed once and kept as `work/name.*.npy`."""
    rng = random.Random(name)
    photos = (load_photo(path, side) for path in paths)
    maps = kept_maps(teacher, photos if how is None else (spoil(p, how, rng) for p in photos), work, name)
    if len(maps.last) != len(paths):
        raise ValueError(
            f"{work}/{name}.last.npy holds {len(maps.last)} photos, expected {len(paths)}: delete it to make it again"
        )
    return PhotoSet(tuple(paths), maps.middle, maps.last)


def kept_maps(teacher: nn.Module, images: Iterable[Tensor], work: Path, name: str) -> PhotoSet:
    """Trunk maps of images (3, S, S) in [0, 1], computed once and kept as `work/name.*.npy`; no paths."""
    files = [work / f"{name}.{part}.npy" for part in ("middle", "last")]
    if not all(file.is_file() for file in files):
        for file, maps in zip(files, _compute_maps(teacher, images), strict=True):
            scratch = file.with_suffix(".tmp.npy")
            np.save(scratch, maps)
            scratch.rename(file)
    middle, last = (np.load(file, mmap_mode="r") for file in files)
    return PhotoSet((), middle, last)


@torch.inference_mode()
def _compute_maps(teacher: nn.Module, images: Iterable[Tensor]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    middles, lasts = [], []
    waiting = iter(images)
    while batch := list(islice(waiting, BATCH)):
        middle, last = trunk_maps(teacher, torch.stack(batch) * 2 - 1)
        middles.append(middle.half().numpy())
        lasts.append(last.half().numpy())
    return np.concatenate(middles), np.concatenate(lasts)
