"""Pictures composed of cut-outs, drawings and textured shapes on photos, with the exact mask of everything in them.

What a model of boxes has to learn is what belongs together: so objects hide each other, parts of objects take another
texture and are objects of their own beside the whole, and nothing in light, noise or sharpness tells pasted from photo.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskmill.starter.drawn.backgrounds import BACKGROUND_WORDS, render_background
from maskmill.starter.promptable_training.pictures import Pictures, Uint8

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Rng = np.random.Generator

LEAST_AREA = 60  # visible pixels of what is asked for
LEAST_VISIBLE = 0.35  # and its share that nothing hides


@dataclass(frozen=True, eq=False)
class Scene:
    """`image` uint8 (S, S, 3). `owners` uint8 (S, S): 0 background, else a layer's number. `targets`: the layers that
    make up each thing that can be asked for.
    """

    image: Uint8
    owners: Uint8
    targets: tuple[tuple[int, ...], ...]

    def mask(self, target: int) -> Bool:
        """Pixels of a target, bool (S, S)."""
        found: Bool = np.isin(self.owners, self.targets[target])
        return found


def compose(rng: Rng, pictures: Pictures, side: int) -> Scene:
    """One scene; the same for the same state of `rng`. At least one target."""
    while True:
        canvas = _backdrop(rng, pictures, side)
        owners = np.zeros((side, side), np.uint8)
        whole: dict[int, int] = {}
        parts: list[tuple[int, ...]] = []
        for layer in range(1, 2 * int(rng.integers(2, 6)), 2):
            patch = _patch(rng, pictures, side)
            solid = _lay(rng, canvas, owners, patch, layer)
            whole[layer] = int(solid.sum())
            part = _part(rng, pictures, solid, side) if rng.random() < 0.3 else None
            if part is not None:
                _lay(rng, canvas, owners, part, layer + 1, shade=False)
                parts += [(layer, layer + 1), (layer + 1,)]
                whole[layer + 1] = int((owners == layer + 1).sum())
            else:
                parts.append((layer,))
        area = np.bincount(owners.ravel(), minlength=256)
        targets = tuple(t for t in parts if _worth_asking(t, area, whole))
        if targets:
            return Scene(_developed(rng, canvas), owners, targets)


def _worth_asking(target: tuple[int, ...], area: NDArray[np.intp], whole: dict[int, int]) -> bool:
    seen, full = int(sum(area[layer] for layer in target)), whole[target[0]]
    return seen >= LEAST_AREA and seen >= LEAST_VISIBLE * full


def _backdrop(rng: Rng, pictures: Pictures, side: int) -> Float:
    if rng.random() < 0.2:
        word = BACKGROUND_WORDS[int(rng.integers(len(BACKGROUND_WORDS)))]
        return np.asarray(render_background(word, rng, side, side), np.float32)
    return _texture(rng, pictures, side, float(rng.uniform(0.35, 1)))


def _texture(rng: Rng, pictures: Pictures, side: int, share: float) -> Float:
    """A cut of a photo, `share` of its sides, stretched to a square: float32 (S, S, 3) in 0..255."""
    photo = pictures.photos[int(rng.integers(len(pictures.photos)))]
    height, width = (max(8, round(length * share)) for length in photo.shape[:2])
    top, left = (
        int(rng.integers(0, whole - own + 1)) for whole, own in zip(photo.shape, (height, width), strict=False)
    )
    cut = cv2.resize(photo[top : top + height, left : left + width], (side, side), interpolation=cv2.INTER_AREA)
    turned = cut[:, :: 1 if rng.random() < 0.5 else -1]
    return _recoloured(rng, np.asarray(turned, np.float32))


def _patch(rng: Rng, pictures: Pictures, side: int) -> Float:
    """Something to lay down: float32 (S, S, 4), colour times alpha, in 0..255."""
    kind = rng.random()
    if kind < 0.7:
        group = pictures.cutouts if kind < 0.52 else pictures.drawings
        patch = _placed(rng, group[int(rng.integers(len(group)))], side)
        alpha = patch[..., 3:]
        if rng.random() < 0.15:  # the outline of a thing filled with something else
            return np.concatenate([_filling(rng, pictures, side) * alpha / 255, alpha], axis=2)
        colour = _recoloured(rng, np.asarray(patch[..., :3] * (255 / np.maximum(alpha, 1)), np.float32))
        return np.concatenate([colour * alpha / 255, alpha], axis=2)
    sharp = 255 * _blob(rng, side).astype(np.float32)
    alpha = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 0.7), np.float32)[..., None]
    return np.concatenate([_filling(rng, pictures, side) * alpha / 255, alpha], axis=2)


def _filling(rng: Rng, pictures: Pictures, side: int) -> Float:
    """A texture, or a plain colour with light on it."""
    if rng.random() < 0.65:
        return _texture(rng, pictures, side, float(rng.uniform(0.05, 0.5)))
    plain = np.ones((side, side, 1), np.float32) * rng.uniform(10, 245, 3).astype(np.float32)
    folds = cv2.resize(rng.normal(0, 18, (9, 9)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(plain + folds[..., None], 0, 255), np.float32)


def _placed(rng: Rng, cutout: Uint8, side: int) -> Float:
    """A cut-out somewhere in the square, at some size, turn and stretch; parts of it may lie outside."""
    height, width = cutout.shape[:2]
    long_side = side * float(np.exp(rng.uniform(np.log(0.14), np.log(1.0))))
    stretch = float(np.exp(rng.normal(0, 0.18)))
    scale = long_side / max(height, width)
    turn = np.deg2rad(rng.normal(0, 16))
    across, down = scale * stretch * (1 if rng.random() < 0.5 else -1), scale / stretch
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([across, down])
    at = rng.uniform(0.08, 0.92, 2) * side
    move = at - turned @ np.array([width / 2, height / 2])
    source, shrink = cutout, 1.0
    while scale / shrink < 0.6:  # halves first: warping alone would skip pixels
        half = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        source, shrink = np.asarray(half, np.uint8), shrink / 2
    matrix = np.column_stack([turned / shrink, move])
    return np.asarray(cv2.warpAffine(source, matrix, (side, side), flags=cv2.INTER_LINEAR), np.float32)


def _blob(rng: Rng, side: int) -> Bool:
    """A smooth closed shape, sometimes a bar: bool (S, S)."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.normal(0, 0.28 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(1, 6))
    radius = np.maximum(0.2, 1 + waves)
    size = side * float(np.exp(rng.uniform(np.log(0.05), np.log(0.4))))
    flat = float(rng.uniform(0.15, 1))
    turn = rng.uniform(0, np.pi)
    x, y = radius * np.cos(angles) * size, radius * np.sin(angles) * size * flat
    points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)
    points += rng.uniform(0.1, 0.9, 2) * side
    canvas = np.zeros((side, side), np.uint8)
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 1)
    return canvas.astype(bool)


def _part(rng: Rng, pictures: Pictures, solid: Bool, side: int) -> Float | None:
    """Another texture over one side of a thing, or over a spot of it; None where it is too small for parts."""
    y, x = np.nonzero(solid)
    if len(y) < 8 * LEAST_AREA:
        return None
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    if rng.random() < 0.7:  # a cut, bent a little: a sleeve, a roof, trousers
        angle = rng.choice([0.5, 0.5, 0, 1]) * np.pi + rng.normal(0, 0.25)
        along = (columns - x.mean()) * np.cos(angle) + (rows - y.mean()) * np.sin(angle)
        bend = cv2.resize(
            rng.normal(0, 0.06 * side, (5, 5)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
        inside = along + bend > np.quantile((along + bend)[solid], rng.uniform(0.25, 0.75))
    else:
        pick = int(rng.integers(len(y)))
        reach = np.sqrt(len(y)) * rng.uniform(0.25, 0.6)
        inside = np.hypot((columns - x[pick]) * rng.uniform(0.6, 1.6), rows - y[pick]) < reach
    share = float(inside[solid].mean())
    if not 0.1 < share < 0.9:
        return None
    alpha = (255 * (inside & solid)).astype(np.float32)[..., None]
    return np.asarray(np.concatenate([_filling(rng, pictures, side) * alpha / 255, alpha], axis=2), np.float32)


def _lay(rng: Rng, canvas: Float, owners: Uint8, patch: Float, layer: int, *, shade: bool = True) -> Bool:
    """Lay a patch over the canvas, in place. Returns what is solid of it."""
    alpha = patch[..., 3:] / 255
    if shade and rng.random() < 0.25:
        side = canvas.shape[0]
        move = np.array([[1, 0, rng.uniform(-0.03, 0.03) * side], [0, 1, rng.uniform(0, 0.04) * side]])
        dark = cv2.GaussianBlur(cv2.warpAffine(alpha, move, (side, side)), (0, 0), 0.012 * side)
        canvas *= 1 - dark[..., None] * np.float32(rng.uniform(0.15, 0.5))
    canvas *= 1 - alpha
    canvas += patch[..., :3]
    solid: Bool = alpha[..., 0] > 0.5
    owners[solid] = layer
    return solid


def _recoloured(rng: Rng, image: Float) -> Float:
    """Light, contrast and tint, varied as photos' are."""
    gain = np.exp(rng.normal(0, 0.12, 3) + rng.normal(0, 0.2)).astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * np.float32(np.clip(rng.normal(0.9, 0.25), 0, 1.6))
    return np.asarray(np.clip(image * gain + rng.normal(0, 8), 0, 255), np.float32)


def _developed(rng: Rng, canvas: Float) -> Uint8:
    """The whole picture through one lens, sensor and file: pasted and photographed get the same."""
    if rng.random() < 0.5:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 1.3))), np.float32)
    if rng.random() < 0.5:
        canvas = canvas + rng.normal(0, rng.uniform(1, 7), canvas.shape).astype(np.float32)
    if rng.random() < 0.08:
        canvas = np.repeat(canvas.mean(axis=2, keepdims=True), 3, axis=2)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "JPEG", quality=int(rng.integers(45, 96)))
        with Image.open(packed) as again:
            image = np.asarray(again, np.uint8)
    return image
