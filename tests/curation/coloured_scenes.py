"""Scenes whose classes show by their colour: red discs are cats, blue ones dogs, on a grey ground. A linear head on
frozen features draws them.
"""

import cv2
import numpy as np
import pyarrow as pa

from maskmill.data_contracts import SAMPLE, LabelSpace, Uint8Array, encode_image, encode_mask, foreground_ids

SPACE = LabelSpace.from_names(["cat", "dog", "bus"])
COLOURS = {1: (220, 40, 40), 2: (40, 40, 220), 3: (40, 200, 40)}
SIDE = 96


def scene(index: int, class_id: int) -> tuple[Uint8Array, Uint8Array]:
    """Image and true mask."""
    rng = np.random.default_rng(index)
    image = np.clip(rng.normal(128, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    x, y = (int(v) for v in rng.integers(30, SIDE - 30, 2))
    cv2.circle(mask, (x, y), int(rng.integers(20, 28)), class_id, -1)
    image[mask > 0] = COLOURS[class_id]
    return image, mask


def row(
    name: str, image: Uint8Array, mask: Uint8Array | None, group: str | None = None, asked: list[int] | None = None
) -> dict[str, object]:
    """A Sample row by the name of its sample."""
    return {
        "sample_id": name,
        "image": {"bytes": encode_image(image), "path": None},
        "mask": None if mask is None else {"bytes": encode_mask(mask), "path": None},
        "height": image.shape[0],
        "width": image.shape[1],
        "class_ids": [] if mask is None else foreground_ids(mask, SPACE),
        "prompt_class_ids": asked,
        "group": group,
        "provenance": {},
    }


def rows(count: int) -> list[dict[str, object]]:
    """Cats and dogs in turns, named s0, s1, …"""
    return [row(f"s{i}", *scene(i, 1 + i % 2)) for i in range(count)]


def table(found: list[dict[str, object]]) -> pa.Table:
    return SAMPLE.table(found)
