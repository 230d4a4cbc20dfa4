"""Small pictures for the report: the image as WebP, its mask as a transparent PNG to lay over it, both as data URIs."""

import base64
import colorsys
import io

import numpy as np
from PIL import Image

from maskmill.data_contracts import IGNORE, LabelSpace, Uint8Array

FILL, EDGE = 105, 255  # opacity of a region and of its outline


def class_colour(space: LabelSpace, class_id: int) -> tuple[int, int, int]:
    """A bright colour for a class: the label space's own, or one from hues a golden angle apart, so that neighbours
    differ.
    """
    if class_id == IGNORE:
        return 255, 255, 255
    own = space.by_id[class_id].colour if class_id in space.by_id else None
    if own is not None:
        return own
    red, green, blue = colorsys.hsv_to_rgb((0.02 + 0.618034 * class_id) % 1.0, 0.78, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def css_colour(colour: tuple[int, int, int]) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def thumbnail(image: Uint8Array, side: int) -> tuple[str, tuple[int, int]]:
    """WebP data URI of an image uint8 (H, W, 3) whose longer side is at most `side` pixels, and its width and
    height.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=72, method=4)
    return data_uri("image/webp", buffer.getvalue()), picture.size


def overlay(mask: Uint8Array, space: LabelSpace, size: tuple[int, int]) -> str:
    """PNG data URI of a mask uint8 (H, W), scaled to `size` (width, height): translucent regions in class colours,
    solid outlines.
    """
    small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    edge = edges(small)
    values = [int(v) for v in np.unique(small) if int(v) != space.background_id][:127]
    index = np.zeros(small.shape, np.uint8)
    palette, alpha = [0, 0, 0], [0]
    for value in values:
        colour = class_colour(space, value)
        index[small == value] = len(alpha)
        index[(small == value) & edge] = len(alpha) + 1
        palette += [*colour, *colour]
        alpha += [FILL // 2 if value == IGNORE else FILL, EDGE]
    picture = Image.fromarray(index)
    picture.putpalette(palette)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", transparency=bytes(alpha), optimize=True)
    return data_uri("image/png", buffer.getvalue())


def edges(mask: Uint8Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Pixels with another value to their left, right, above or below."""
    edge = np.zeros(mask.shape, bool)
    down, across = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
