"""Photos deeper than eight bits to eight: the range of values that becomes black to white."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from maskmill.data_contracts.blocks import blocks

Uint8Array = NDArray[np.uint8]
Range = tuple[float, float]
BITS = (8, 10, 12, 14, 16)


def _ordered(tone: "str | Range") -> "str | Range":
    if not isinstance(tone, str) and not tone[0] < tone[1]:
        raise ValueError(f"tone: expected auto, stretch or [low, high] with low < high, found {tone}")
    return tone


Tone = Annotated[Literal["auto", "stretch"] | Range, AfterValidator(_ordered)]


def tone_range(values: NDArray[Any], tone: "str | Range") -> Range:
    """The values that become 0 and 255. `stretch` takes the photo's own smallest and largest value.

    `auto` takes the smallest of 8, 10, 12, 14 and 16 bits that holds the largest value: cameras and scanners store 12
    bits in 16. Fractions within 0..1 or 0..255 are taken for that range. What fits none of these is stretched.

    Raises:
        ValueError: values that are not finite.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"values from {low} to {high}")
    if not isinstance(tone, str):
        return tone
    if tone == "stretch" or low < 0:
        return low, high
    fractions = values.dtype.kind == "f" and bool((values != np.floor(values)).any())
    if values.dtype.kind == "f" and high <= 1:
        return 0.0, 1.0
    if fractions:
        return (0.0, 255.0) if high <= 255 else (low, high)
    return next(((0.0, float((1 << bits) - 1)) for bits in BITS if high < 1 << bits), (low, high))


def to_eight_bits(values: NDArray[Any], between: Range) -> Uint8Array:
    """Values (H, W, …) with `between` as black and white; what lies outside is cut off. One value alone is black."""
    scaled = np.empty(values.shape, np.uint8)
    for rows in blocks(values):
        scaled[rows] = _block(values[rows], between)
    return scaled


def _block(values: NDArray[Any], between: Range) -> Uint8Array:
    low, high = between
    if values.dtype.kind in "iub" and low == 0 and float(high).is_integer():  # exact, and 16 bits as ever: value // 257
        whole = np.clip(values.astype(np.int64), 0, int(high))
        return (whole * 255 // max(int(high), 1)).astype(np.uint8)
    share = np.clip((values.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    scaled: Uint8Array = np.rint(255 * share).astype(np.uint8)
    return scaled
