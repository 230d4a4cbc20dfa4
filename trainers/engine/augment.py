"""Geometric and photometric augmentation as pure functions of an image and a NumPy generator."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from maskmill.data_contracts import IGNORE, Uint8Array
from maskmill.trainers.engine.config import Fit

Pixels = NDArray[Any]


class AugmentConfig(BaseModel):
    """How an image becomes a square of `size` pixels. With the defaults: short side to `size`, random crop, random
    flip.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=128, ge=8, description="side of the square crop in pixels")
    fit: Fit = Field(
        default="short",
        description="what `size` means at scale 1: native (nothing is resized), the short side, the long side, or "
        "squash (both; the aspect is lost)",
    )
    scale: tuple[float, float] = Field(
        default=(1.0, 1.0), description="least and greatest factor on top of the fit, uniform"
    )
    rotate: float = Field(default=0.0, ge=0, le=180, description="greatest turn to either side in degrees, uniform")
    quarter_turns: bool = Field(default=False, description="turn by 0, 90, 180 or 270 degrees as well")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")
    brightness: float = Field(default=0.0, ge=0, lt=1, description="brightness varies by this share, ±")
    contrast: float = Field(default=0.0, ge=0, lt=1, description="contrast varies by this share, ±")
    saturation: float = Field(default=0.0, ge=0, lt=1, description="saturation varies by this share, ±")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="turns of the colour circle, ±")
    grey: float = Field(default=0.0, ge=0, le=1, description="probability of a grey image")
    blur: float = Field(default=0.0, ge=0, le=1, description="probability of a Gaussian blur of sigma 0.1 to 2 pixels")


@dataclass(frozen=True)
class Geometry:
    """One drawn resize, rotation, crop and flip. Apply it to everything that belongs to the image."""

    height: int  # after the resize
    width: int
    angle: float
    top: int  # of the crop in the resized image; negative = padding before it
    left: int
    size: int
    flip: bool
    turns: int  # quarter turns, counter-clockwise

    def apply(self, pixels: Pixels, *, fill: int | tuple[int, ...], nearest: bool) -> Pixels:
        """Transform (H, W) or (H, W, C) to (size, size[, C]); `fill` stands wherever the source has no pixel."""
        out = self._resize(pixels, nearest)
        if self.angle:
            turn = cv2.getRotationMatrix2D(((self.width - 1) / 2, (self.height - 1) / 2), self.angle, 1.0)
            flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
            border = fill if isinstance(fill, tuple) else (fill,) * 4
            out = cv2.warpAffine(out, turn, (self.width, self.height), flags=flags, borderValue=border)
        canvas = np.empty((self.size, self.size, *out.shape[2:]), out.dtype)
        canvas[...] = fill
        y0, y1 = max(self.top, 0), min(self.top + self.size, self.height)
        x0, x1 = max(self.left, 0), min(self.left + self.size, self.width)
        canvas[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left] = out[y0:y1, x0:x1]
        canvas = np.rot90(canvas, self.turns) if self.turns else canvas
        return np.ascontiguousarray(canvas[:, ::-1] if self.flip else canvas)

    def _resize(self, pixels: Pixels, nearest: bool) -> Pixels:
        if pixels.shape[:2] == (self.height, self.width):
            return pixels
        if nearest:
            return cv2.resize(pixels, (self.width, self.height), interpolation=cv2.INTER_NEAREST_EXACT)
        return resize_image(pixels, self.height, self.width)

    def image(self, pixels: Uint8Array, fill: tuple[int, int, int] = (124, 116, 104)) -> Uint8Array:
        """An RGB image; padding takes ImageNet's mean colour."""
        return self.apply(pixels, fill=fill, nearest=False)

    def label(self, pixels: Uint8Array, fill: int = IGNORE) -> Uint8Array:
        """A label map: nearest neighbour, padding is ignored."""
        return self.apply(pixels, fill=fill, nearest=True)


def resize_image(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize (H, W[, C]) without aliasing: area average on the way down, bilinear on the way up."""
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def fitted_size(height: int, width: int, fit: Fit, size: int, factor: float = 1.0) -> tuple[int, int]:
    """(height, width) that an image takes under `fit`, times `factor`; at least one pixel each."""
    if fit == "squash":
        ratio_y, ratio_x = size / height, size / width
    else:
        ratio_y = ratio_x = {"native": 1.0, "short": size / min(height, width), "long": size / max(height, width)}[fit]
    return max(1, round(height * ratio_y * factor)), max(1, round(width * ratio_x * factor))


def draw_geometry(rng: np.random.Generator, height: int, width: int, config: AugmentConfig) -> Geometry:
    """Draw one geometry for an image of (height, width). Always takes the same count of numbers from `rng`."""
    factor = rng.uniform(*config.scale)
    at_y, at_x, turn, mirror = rng.random(4)
    turns = int(rng.integers(4))
    new_height, new_width = fitted_size(height, width, config.fit, config.size, factor)
    return Geometry(
        height=new_height,
        width=new_width,
        angle=float((2 * turn - 1) * config.rotate),
        top=_offset(new_height - config.size, at_y),
        left=_offset(new_width - config.size, at_x),
        size=config.size,
        flip=bool(mirror < config.flip),
        turns=turns if config.quarter_turns else 0,
    )


def centre_geometry(height: int, width: int, config: AugmentConfig) -> Geometry:
    """The geometry without chance: scale 1, centre crop, no rotation, no flip."""
    new_height, new_width = fitted_size(height, width, config.fit, config.size)
    top, left = (new_height - config.size) // 2, (new_width - config.size) // 2
    return Geometry(new_height, new_width, 0.0, top, left, config.size, flip=False, turns=0)


def _offset(slack: int, at: float) -> int:
    """Random crop start for positive slack; for negative slack (image too small) the random start of the padding,
    negated.
    """
    return int(at * (slack + 1)) if slack >= 0 else -int(at * (1 - slack))


def jitter_colours(rng: np.random.Generator, image: Pixels, config: AugmentConfig) -> Pixels:
    """Brightness, contrast, saturation, hue, grey and blur, in this order, on uint8 (H, W, 3) or float32 of 0..255."""
    # Plain floats: a NumPy float64 would turn the float32 image into float64.
    bright, contrast, saturation, hue = (2 * rng.random(4) - 1).tolist()
    grey, blurred, sigma = rng.random(3).tolist()
    out = image.astype(np.float32) * (1 + bright * config.brightness)
    if config.contrast:
        mean = float(_luma(out).mean())
        out = (out - mean) * (1 + contrast * config.contrast) + mean
    if config.saturation:
        luma = _luma(out)[..., None]
        out = (out - luma) * (1 + saturation * config.saturation) + luma
    out = np.clip(out, 0, 255)
    if config.hue:
        hsv = cv2.cvtColor(out / 255, cv2.COLOR_RGB2HSV)  # hue in degrees
        hsv[..., 0] = (hsv[..., 0] + 360 * hue * config.hue) % 360
        out = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if grey < config.grey:
        out = np.repeat(_luma(out)[..., None], 3, axis=2)
    if blurred < config.blur:
        out = cv2.GaussianBlur(out, (0, 0), 0.1 + 1.9 * sigma)
    jittered: Pixels = np.clip(out if image.dtype.kind == "f" else np.rint(out), 0, 255).astype(image.dtype)
    return jittered


def _luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey: NDArray[np.float32] = image @ weights
    return grey
