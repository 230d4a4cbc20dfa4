"""Known faults, planted on purpose: what tests, benchmarks and the demo hold a selection against. Pure functions
of pixels and a seed.
"""

from enum import StrEnum

import cv2
import numpy as np

from maskmill.data_contracts import Uint8Array


class Fault(StrEnum):
    """What can be planted. The first three spoil the image, the next three the annotation, the last repeats a
    sample.
    """

    SCRAMBLED_IMAGE = "scrambled_image"
    NOISE_IMAGE = "noise_image"
    BLURRED_IMAGE = "blurred_image"
    FOREIGN_MASK = "foreign_mask"
    SHIFTED_MASK = "shifted_mask"
    SWAPPED_LABEL = "swapped_label"
    NEAR_DUPLICATE = "near_duplicate"


def scramble_tiles(image: Uint8Array, seed: int, grid: int = 4) -> Uint8Array:
    """Cut uint8 (H, W, 3) into grid × grid tiles and shuffle them (never the identity); the remainder stays in
    place.
    """
    rng = np.random.default_rng(seed)
    height, width = image.shape[0] // grid, image.shape[1] // grid
    order = rng.permutation(grid * grid)
    while (order == np.arange(grid * grid)).all():
        order = rng.permutation(grid * grid)
    out = image.copy()
    for target, source in enumerate(order):
        ty, tx = divmod(target, grid)
        sy, sx = divmod(int(source), grid)
        tile = image[sy * height : (sy + 1) * height, sx * width : (sx + 1) * width]
        out[ty * height : (ty + 1) * height, tx * width : (tx + 1) * width] = tile
    return out


def noise_like(image: Uint8Array, seed: int) -> Uint8Array:
    """White noise with the mean and spread of each channel of `image`."""
    rng = np.random.default_rng(seed)
    mean, spread = image.mean((0, 1)), image.std((0, 1)) + 1
    noise: Uint8Array = np.clip(rng.normal(mean, spread, image.shape), 0, 255).astype(np.uint8)
    return noise


def blur_heavily(image: Uint8Array, share: float = 0.06) -> Uint8Array:
    """Gaussian blur with a standard deviation of `share` of the longer side."""
    sigma = share * max(image.shape[:2])
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.uint8)


def shift_mask(mask: Uint8Array, seed: int, share: float = 0.2, fill: int = 0) -> Uint8Array:
    """Shift uint8 (H, W) by `share` of each side in a seeded diagonal direction; what comes in from outside is
    `fill`.
    """
    rng = np.random.default_rng(seed)
    dy, dx = (int(rng.choice((-1, 1))) * max(1, round(share * side)) for side in mask.shape)
    out = np.full_like(mask, fill)
    height, width = mask.shape
    rows = slice(max(dy, 0), height + min(dy, 0)), slice(max(-dy, 0), height + min(-dy, 0))
    columns = slice(max(dx, 0), width + min(dx, 0)), slice(max(-dx, 0), width + min(-dx, 0))
    out[rows[0], columns[0]] = mask[rows[1], columns[1]]
    return out


def swap_labels(mask: Uint8Array, class_ids: list[int], all_ids: list[int], seed: int) -> Uint8Array:
    """Give every class of the mask the id of a class that the mask does not hold, each a different one.

    Raises:
        ValueError: fewer absent classes than present ones.
    """
    absent = [i for i in all_ids if i not in class_ids]
    if len(absent) < len(class_ids):
        raise ValueError(f"swap_labels: {len(class_ids)} classes to swap, only {len(absent)} absent ones")
    chosen = np.random.default_rng(seed).permutation(absent)
    lookup = np.arange(256, dtype=np.uint8)
    for old, new in zip(class_ids, chosen, strict=False):
        lookup[old] = new
    return lookup[mask]


def nearly_repeat(image: Uint8Array, seed: int) -> Uint8Array:
    """The same picture a little brighter or darker with fresh sensor noise: other bytes, same content."""
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.95, 1.05)
    noisy: Uint8Array = np.clip(image * gain + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    return noisy
