"""Cut-outs onto a canvas: resampling, colour jitter, shadows, occlusion with exact visible masks."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskmill.starter.drawn.drawings import Drawing
from maskmill.starter.drawn.textures import Float, Rng

OPAQUE = 127.5


@dataclass(frozen=True)
class Pose:
    """Where a drawing lies: centre and longer side in pixels, clockwise turn in degrees, mirrored or not."""

    x: float
    y: float
    length: float
    turn: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True, eq=False)
class Patch:
    """A drawing resampled for one canvas: float32 (h, w, 4) premultiplied 0..255 at row `top`, column `left`."""

    rgba: Float
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The canvas rows and columns that the patch covers."""
        height, width = self.rgba.shape[:2]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def solid(self) -> NDArray[np.bool_]:
        """Pixels that belong to the object: at least half opaque."""
        return self.rgba[..., 3] > OPAQUE


def _bilinear(level: NDArray[np.uint8], u: Float, v: Float) -> Float:
    """Sample (h, w, 4) at fractional columns u and rows v (same shape); transparent outside."""
    padded = np.zeros((level.shape[0] + 2, level.shape[1] + 2, 4), np.float32)
    padded[1:-1, 1:-1] = level
    stride = padded.shape[1]
    u, v = (u + 1).clip(0, padded.shape[1] - 1.001), (v + 1).clip(0, padded.shape[0] - 1.001)
    column, row = u.astype(np.intp), v.astype(np.intp)
    fu, fv = (u - column).astype(np.float32)[..., None], (v - row).astype(np.float32)[..., None]
    corner, flat = row * stride + column, padded.reshape(-1, 4)
    top_left, low_left = flat.take(corner, axis=0), flat.take(corner + stride, axis=0)
    above = top_left + (flat.take(corner + 1, axis=0) - top_left) * fu
    below = low_left + (flat.take(corner + stride + 1, axis=0) - low_left) * fu
    sampled: Float = above + (below - above) * fv
    return sampled


def resample(drawing: Drawing, pose: Pose, height: int, width: int, blur: int = 0) -> Patch:
    """Draw `drawing` in `pose`, cut to the canvas (height, width). `blur` takes a coarser level: soft shadows.

    The level of the size pyramid is the smallest that is not enlarged, so shrinking does not alias.
    """
    full_height, full_width = drawing.levels[0].shape[:2]
    scale = pose.length / max(full_height, full_width)
    fine = next((i for i in range(len(drawing.levels) - 1, 0, -1) if scale * 2.0**i <= 1.0), 0)
    index = min(fine + blur, len(drawing.levels) - 1)
    level, zoom = drawing.levels[index], scale * 2.0**index
    cos, sin = np.cos(np.deg2rad(pose.turn)), np.sin(np.deg2rad(pose.turn))
    half_x = (abs(cos) * full_width + abs(sin) * full_height) * scale / 2 + 1 + blur
    half_y = (abs(sin) * full_width + abs(cos) * full_height) * scale / 2 + 1 + blur
    left, right = int(np.clip(pose.x - half_x, 0, width)), int(np.clip(np.ceil(pose.x + half_x), 0, width))
    top, bottom = int(np.clip(pose.y - half_y, 0, height)), int(np.clip(np.ceil(pose.y + half_y), 0, height))
    dx = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - pose.x))[None, :] / np.float32(zoom)
    dy = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - pose.y))[:, None] / np.float32(zoom)
    u, v = np.float32(cos) * dx + np.float32(sin) * dy, np.float32(cos) * dy - np.float32(sin) * dx
    u = -u if pose.mirrored else u
    u, v = u + np.float32(full_width / 2**index / 2 - 0.5), v + np.float32(full_height / 2**index / 2 - 0.5)
    return Patch(_bilinear(level, u, v), top, left)


def hue_matrix(degrees: float) -> Float:
    """Rotation of RGB about the grey axis: (3, 3), to be applied as colour @ matrix.T; grey stays grey."""
    cos, sin = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))
    third, root = (1 - cos) / 3, float(np.sqrt(1 / 3)) * sin
    a, b, c = cos + third, third - root, third + root
    return np.array([[a, b, c], [c, a, b], [b, c, a]], np.float32)


def recolour(patch: Patch, matrix: Float) -> Patch:
    """Apply a (3, 3) colour matrix to a premultiplied patch; colours stay within 0..alpha."""
    r, g, b, alpha = (patch.rgba[..., c] for c in range(4))
    rgba = np.empty_like(patch.rgba)
    for channel, row in enumerate(matrix):
        rgba[..., channel] = (row[0] * r + row[1] * g + row[2] * b).clip(0, alpha)
    rgba[..., 3] = alpha
    return Patch(rgba, patch.top, patch.left)


def colour_jitter(rng: Rng, amount: float, hue: float) -> Float:
    """A random (3, 3) colour matrix: channel gains in 1 ± amount, hue turn of up to ± hue degrees."""
    gains = (rng.uniform(1 - amount, 1 + amount) * rng.uniform(1 - amount / 2, 1 + amount / 2, 3)).astype(np.float32)
    return gains[:, None] * hue_matrix(float(rng.uniform(-hue, hue)))


@dataclass(eq=False)
class Canvas:
    """A picture under construction. `owner` (H, W) int16: the layer that shows, 0 = background, 1.. = order laid.

    `edge` (H, W) bool: pixels where a layer's border is partly transparent and still on top.
    """

    image: Float
    owner: NDArray[np.int16] = field(init=False)
    edge: NDArray[np.bool_] = field(init=False)
    areas: list[int] = field(default_factory=list)
    solids: list[Patch] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with background everywhere."""
        self.owner = np.zeros(self.image.shape[:2], np.int16)
        self.edge = np.zeros(self.image.shape[:2], np.bool_)

    def visible_areas(self, owner: NDArray[np.int16]) -> NDArray[np.intp]:
        """Visible pixels of each layer so far, in order laid."""
        return np.bincount(owner.ravel(), minlength=len(self.areas) + 1)[1:]

    def leaves_visible(self, patch: Patch, min_share: float, min_area: int) -> bool:
        """Whether every layer below keeps `min_share` of its area and `min_area` pixels once the patch lies on top."""
        solid = patch.solid
        if int(solid.sum()) < min_area:
            return False
        owner = self.owner.copy()
        owner[patch.window][solid] = 0
        left = self.visible_areas(owner)
        return all(n >= max(min_share * area, min_area) for n, area in zip(left, self.areas, strict=True))

    def shade(self, shadow: Patch, strength: float) -> None:
        """Darken the picture under a blurred silhouette; masks do not change."""
        self.image[shadow.window] *= (1 - shadow.rgba[..., 3:] * np.float32(strength / 255)).astype(np.float32)

    def lay(self, patch: Patch) -> int:
        """Composite a patch on top and return its layer number (1..)."""
        region = self.image[patch.window]
        region *= 1 - patch.rgba[..., 3:] / 255
        region += patch.rgba[..., :3]
        solid, alpha = patch.solid, patch.rgba[..., 3]
        self.areas.append(int(solid.sum()))
        self.solids.append(patch)
        self.owner[patch.window][solid] = len(self.areas)
        edge = self.edge[patch.window]
        edge[alpha > 250] = False
        edge[(alpha > 5) & (alpha <= 250)] = True
        return len(self.areas)

    def full_mask(self, layer: int) -> NDArray[np.bool_]:
        """The layer's whole silhouette within the frame, hidden parts included: bool (H, W)."""
        mask = np.zeros(self.owner.shape, np.bool_)
        mask[self.solids[layer - 1].window] = self.solids[layer - 1].solid
        return mask

    def pixels(self, rng: Rng, noise: float) -> NDArray[np.uint8]:
        """The finished picture, uint8 (H, W, 3), with Gaussian sensor noise of `noise` grey levels."""
        grain = rng.standard_normal(self.image.shape, dtype=np.float32) * np.float32(noise)
        pixels: NDArray[np.uint8] = np.rint((self.image + grain).clip(0, 255)).astype(np.uint8)
        return pixels
