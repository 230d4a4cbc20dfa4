"""Procedural, textured backgrounds named by the background words of the SDS card (25 words for VOC)."""

from collections.abc import Callable

import numpy as np

from maskmill.starter.drawn import built, nature
from maskmill.starter.drawn.textures import Float, Rng, noise

PAINTERS: dict[str, Callable[[Rng, int, int], Float]] = {
    "ground": nature.ground,
    "land": nature.land,
    "grass": nature.grass,
    "tree": nature.tree,
    "building": built.building,
    "wall": built.wall,
    "sky": nature.sky,
    "lake": nature.lake,
    "water": nature.water,
    "river": nature.river,
    "sea": nature.sea,
    "railway": built.railway,
    "railroad": built.railroad,
    "keyboard": built.keyboard,
    "helmet": built.helmet,
    "cloud": nature.cloud,
    "house": built.house,
    "mountain": nature.mountain,
    "ocean": nature.ocean,
    "road": built.road,
    "rock": nature.rock,
    "street": built.street,
    "valley": nature.valley,
    "bridge": built.bridge,
    "sign": built.sign,
}
BACKGROUND_WORDS = tuple(PAINTERS)


def render_background(word: str, rng: Rng, height: int, width: int) -> Float:
    """Paint one background: float32 (H, W, 3) in 0..255, mirrored and lit at random.

    Raises:
        ValueError: the word is not one of `BACKGROUND_WORDS`.
    """
    if word not in PAINTERS:
        raise ValueError(f"background: expected one of {', '.join(BACKGROUND_WORDS)}, found {word!r}")
    picture = PAINTERS[word](rng, height, width)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    light = np.float32(rng.uniform(0.8, 1.1)) + np.float32(0.2) * (noise(rng, height, width, 1.2, 1) - 0.5)
    lit: Float = np.clip(picture * (light * 255)[..., None], 0, 255).astype(np.float32)
    return lit
