"""FreeMask (NeurIPS 2023): ignore what a real-data segmenter finds implausible, and draw more of the hard masks.

Lbar_c = mean loss over all real pixels of class c a synthetic pixel x of class c is ignored  iff  l(x) > tolerance *
Lbar_c          (tolerance 1.25) hardness of a mask = pixel-weighted mean of Lbar_c over its classes the i-th easiest
of n masks gets min(1 + round(per_mask * i / n), per_mask) images
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isinf

import numpy as np
from numpy.typing import NDArray

from maskmill.data_contracts import IGNORE, Uint8Array, sample_seed

Float = NDArray[np.float32]


def pixel_losses(logits: Float, mask: Uint8Array) -> Float:
    """Cross-entropy per pixel in nats, float32 (H, W): `logits` (C, H, W) of a segmenter against `mask`; 0 where
    ignored.
    """
    shifted = logits - logits.max(axis=0, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=0, keepdims=True))
    ids = np.where(mask == IGNORE, 0, mask).astype(np.intp)
    chosen = np.take_along_axis(logarithms, ids[None], axis=0)[0]
    losses: Float = np.where(mask == IGNORE, 0, -chosen).astype(np.float32)
    return losses


def class_mean_losses(pairs: Iterable[tuple[Float, Uint8Array]]) -> dict[int, float]:
    """Lbar_c over (losses, mask) pairs of real images; classes that no mask holds are absent from the result."""
    sums, counts = np.zeros(256), np.zeros(256)
    for losses, mask in pairs:
        sums += np.bincount(mask.ravel(), weights=losses.ravel(), minlength=256)
        counts += np.bincount(mask.ravel(), minlength=256)
    return {int(c): float(sums[c] / counts[c]) for c in np.flatnonzero(counts) if c != IGNORE}


def filter_regions(mask: Uint8Array, losses: Float, means: Mapping[int, float], tolerance: float = 1.25) -> Uint8Array:
    """The mask with implausible pixels set to 255. Classes without a real mean are left as they are: nothing says
    what is normal.

    Raises:
        ValueError: a negative tolerance, or losses of another shape.
    """
    if tolerance < 0 or losses.shape != mask.shape:
        found = f"tolerance {tolerance}, losses {losses.shape}, mask {mask.shape}"
        raise ValueError(f"region filter: expected a tolerance >= 0 and losses of the mask's shape; found {found}")
    limits = np.full(256, np.inf)
    if not isinf(tolerance):
        for class_id, mean in means.items():
            limits[class_id] = tolerance * mean
    filtered: Uint8Array = np.where(losses > limits[mask], IGNORE, mask).astype(np.uint8)
    return filtered


def hardness(mask: Uint8Array, means: Mapping[int, float]) -> float:
    """Pixel-weighted mean of Lbar_c over the mask's classes that have one; 0 where none has."""
    counts = np.bincount(mask.ravel(), minlength=256)
    known = [c for c in np.flatnonzero(counts).tolist() if c in means]
    pixels = sum(int(counts[c]) for c in known)
    return sum(means[c] * int(counts[c]) for c in known) / pixels if pixels else 0.0


def images_per_mask(hardnesses: Mapping[str, float], per_mask: int = 20) -> dict[str, int]:
    """How many of its `per_mask` images each mask keeps, by mask id: the harder, the more. Ties are ordered by id."""
    ranked = sorted(hardnesses, key=lambda mask_id: (hardnesses[mask_id], mask_id))
    total = len(ranked)
    return {m: min(1 + round(per_mask * i / total), per_mask) for i, m in enumerate(ranked, start=1)}


def choose_images(mask_id: str, images: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` of a mask's images at random, in their old order; depends on the seed, the mask and the images' ids
    only.
    """
    order = sorted(images, key=lambda image: sample_seed(seed, f"{mask_id}|{image}", "freemask"))
    chosen = set(order[:count])
    return [image for image in images if image in chosen]
